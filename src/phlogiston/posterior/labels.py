"""Names of the components of a site, such as ``theta[Choate]``: by coordinates where there are some, else by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# A site's name and shape -> the label of each position along each dimension.
Labels = Callable[[str, Sequence[int]], list[Sequence[Any]]]


def numbered(name: str, shape: Sequence[int]) -> list[Sequence[Any]]:
    """The labels of a site without coordinates: positions by number."""
    return [range(size) for size in shape]


def component(site: str, shape: Sequence[int], place: int, labels: Labels) -> str:
    """What the component at a flat position of a site is called, such as ``theta[Choate]``."""
    if not shape:
        return site
    index = np.unravel_index(place, shape)
    names = (str(known[int(i)]) for known, i in zip(labels(site, shape), index, strict=True))
    return f"{site}[{', '.join(names)}]"
