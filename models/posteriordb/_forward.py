"""The forward algorithm of hidden Markov models, in log2(T) steps."""

import torch
from torch import Tensor

_SCALED_EVERY = 4  # doublings: products of sixteen matrices of probabilities do not underflow


def log_forward(transition: Tensor, log_emission: Tensor) -> Tensor:
    r"""log p(y_1, ..., y_T) with the hidden states summed out and weight 1 (not 1/K) on each first state.

    The sum over all paths is a row, a product of matrices and a column of ones,
    :math:`p(y_1 \mid \cdot)^T (\Theta D_2) \cdots (\Theta D_T) 1` with :math:`D_t = \mathrm{diag}(p(y_t \mid k))`.
    Neighbours are multiplied in pairs, then pairs of pairs. Steps come in the order of ``pairing``, which puts the
    left neighbours of all pairs into the first part and the right ones into the rest: blocks of memory are read
    fast, every other element is not. Scales need no gradient, as they cancel.

    Args:
        transition: probabilities, of shape [K, K]; row j holds those of leaving j.
        log_emission: log p(y_t | state k), of shape [K, T], t in the order of ``pairing(T)``.

    Returns:
        A scalar.

    References:
        Sarkka and Garcia-Fernandez (2021), https://doi.org/10.1109/TAC.2020.2976316
    """
    scale = log_emission.detach().amax(0)
    emission, total = (log_emission - scale).exp(), scale.sum()
    matrix, doublings = transition[:, :, None] * emission[:, 1:], 0  # [from, to, step]
    while (count := matrix.shape[-1]) > 1:
        half = 1 << (count - 1).bit_length() - 1
        left, right = matrix[..., : count - half], matrix[..., half:]
        product = (left[:, :, None] * right[None]).sum(1)
        matrix = product if count == 2 * half else torch.cat([product, matrix[..., count - half : half]], -1)
        doublings += 1
        if doublings % _SCALED_EVERY == 0:
            scale = matrix.detach().amax((0, 1))
            matrix, total = matrix / scale, total + scale.log().sum()
    return (emission[:, 0] @ matrix[..., 0]).sum().log() + total


def pairing(num_steps: int) -> Tensor:
    """The order of steps for ``log_forward``: the first one, then the others by their places in the pairs."""
    places = torch.zeros(1, dtype=torch.long)
    while len(places) < num_steps - 1:
        places = torch.cat([2 * places, 2 * places + 1])
    ranks = places[: num_steps - 1].argsort().argsort()  # places that no step takes count as identity matrices
    return torch.cat([torch.zeros(1, dtype=torch.long), 1 + ranks])
