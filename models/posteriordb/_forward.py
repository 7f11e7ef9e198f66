"""The forward algorithm of hidden Markov models, in log2(T) steps."""

import torch
from torch import Tensor


def log_forward(transition: Tensor, log_emission: Tensor) -> Tensor:
    r"""log p(y_1, ..., y_T) with the hidden states summed out and weight 1 (not 1/K) on each first state.

    The sum over all paths is the sum of the entries of a product of matrices,
    :math:`1^T D_1 (\Theta D_2) \cdots (\Theta D_T) 1` with :math:`D_t = \mathrm{diag}(p(y_t \mid k))`. Neighbours are
    multiplied in pairs, then pairs of pairs, each time scaled so that the largest entry is 1. The scales need no
    gradient, as they cancel.

    Args:
        transition: probabilities, of shape [K, K]; row j holds those of leaving j.
        log_emission: log p(y_t | state k), of shape [K, T].

    Returns:
        A scalar.

    References:
        Sarkka and Garcia-Fernandez (2021), https://doi.org/10.1109/TAC.2020.2976316
    """
    num_states, num_steps = log_emission.shape
    unit = torch.eye(num_states)[:, :, None]
    is_first = torch.arange(num_steps) == 0
    scale = log_emission.detach().amax(0)
    matrix = torch.where(is_first, unit, transition[:, :, None]) * (log_emission - scale).exp()  # [from, to, time]
    log_scale = scale.sum()
    while matrix.shape[-1] > 1:
        if matrix.shape[-1] % 2:
            matrix = torch.cat([matrix, unit], -1)
        left, right = matrix[..., 0::2], matrix[..., 1::2]
        matrix = (left[:, :, None] * right[None]).sum(1)
        scale = matrix.detach().amax((0, 1))
        matrix, log_scale = matrix / scale, log_scale + scale.log().sum()
    return matrix.sum().log() + log_scale
