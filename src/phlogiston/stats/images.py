"""Sharpness of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phlogiston.stats.estimate import Estimate

Array = NDArray[np.float64]


def sharpness(images: Array) -> Estimate:
    r"""Mean over images of the variance of their Laplacian.

    .. math:: x_{i-1,j} + x_{i+1,j} + x_{i,j-1} + x_{i,j+1} - 4 x_{ij}

    Blur lowers it and noise raises it: images as sharp as the data have the data's own value.

    Args:
        images: ``[N, H, W]``, at least three pixels each way.

    References:
        Pech-Pacheco, Cristóbal, Chamorro-Martínez and Fernández-Valdivia (2000), Diatom autofocusing in brightfield
        microscopy. https://doi.org/10.1109/ICPR.2000.903548
    """
    x = np.asarray(images, dtype=float)
    inner = x[:, 1:-1, 1:-1]
    laplacian = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:] - 4.0 * inner
    variances = laplacian.reshape(len(x), -1).var(1)
    return Estimate(float(variances.mean()), float(variances.std(ddof=1) / np.sqrt(len(x))))
