"""The forward algorithm of hidden Markov models, in log2(T) steps."""

import torch
from torch import Tensor

_SCALED_EVERY = 4  # doublings: sixteen factors that are at most 1 do not underflow


def log_forward(transition: Tensor, log_emission: Tensor, is_step: Tensor, is_first: Tensor) -> Tensor:
    r"""log p(y_1, ..., y_T) with the hidden states summed out and weight 1 (not 1/K) on each first state.

    The sum over all paths is the sum of the entries of a product of matrices,
    :math:`1^T D_1 (\Theta D_2) \cdots (\Theta D_T) 1` with :math:`D_t = \mathrm{diag}(p(y_t \mid k))`. Neighbours are
    multiplied in pairs, then pairs of pairs. Steps come in the order of ``pairing``, in which the left neighbours of
    all pairs are the first half: halves are read at the speed of memory, every other element is not. Scales need no
    gradient, as they cancel.

    Args:
        transition: probabilities, of shape [K, K]; row j holds those of leaving j.
        log_emission: log p(y_t | state k), of shape [K, n], n a power of two.
        is_step: whether a step is one of the T, and not there to fill up to n, of shape [n].
        is_first: whether a step is t = 1, of shape [n].

    Returns:
        A scalar.

    References:
        Sarkka and Garcia-Fernandez (2021), https://doi.org/10.1109/TAC.2020.2976316
    """
    unit = torch.eye(len(transition))[:, :, None]
    log_scale = torch.where(is_step, log_emission.detach().amax(0), 0.0)
    emission = torch.where(is_step, log_emission - log_scale, 0.0).exp()
    matrix = torch.where(is_step & ~is_first, transition[:, :, None], unit) * emission  # [from, to, step]
    total, doublings = log_scale.sum(), 0
    while matrix.shape[-1] > 1:
        left, right = matrix.chunk(2, -1)
        matrix = (left[:, :, None] * right[None]).sum(1)
        doublings += 1
        if doublings % _SCALED_EVERY == 0:
            scale = matrix.detach().amax((0, 1))
            matrix, total = matrix / scale, total + scale.log().sum()
    return matrix.sum().log() + total


def pairing(num_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The order of steps for ``log_forward``, with ``is_step`` and ``is_first``; fill-ups repeat the last step."""
    order = torch.zeros(1, dtype=torch.long)
    while len(order) < num_steps:
        order = torch.cat([2 * order, 2 * order + 1])
    return order.clamp(max=num_steps - 1), order < num_steps, order == 0
