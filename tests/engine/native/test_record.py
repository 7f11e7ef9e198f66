"""What torch computes, recorded: every operation by value and gradient, writes in place, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from phlogiston.engine.native.adjoint import with_gradient
from phlogiston.engine.native.interpret import interpret
from phlogiston.engine.native.ir import NotNative
from phlogiston.engine.native.recording.analyse import record

Function = Callable[[torch.Tensor], torch.Tensor]
DIM = 12
A = torch.arange(12.0, dtype=torch.float64).reshape(3, 4) / 7.0 - 0.6
INDEX = torch.tensor([2, 0, 2, 1])


def recorded(function: Function, at: torch.Tensor | None = None):
    start = torch.zeros(DIM, dtype=torch.float64) if at is None else at
    weights = 1.0 + 0.1 * torch.arange(1000, dtype=torch.float64)

    def reading(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        result = function(values["u"]).to(torch.float64).reshape(-1)
        return {"value": (result * weights[: len(result)]).sum()}

    return record(reading, {"u": start}), reading


def agrees(function: Function, low: float = -1.0, high: float = 1.0, *, gradient: bool = True) -> None:
    """Value and gradient of a recording at other points than the one that was recorded."""
    first = torch.full((DIM,), 0.5 * (low + high), dtype=torch.float64) + 0.01 * torch.arange(DIM)
    program, reading = recorded(function, first)
    points = np.random.default_rng(0).uniform(low, high, (3, DIM))
    found = interpret(with_gradient(program), {"u": points.T})
    for row, point in enumerate(points):
        u = torch.from_numpy(point.copy()).requires_grad_(gradient)
        value = reading({"u": u})["value"]
        np.testing.assert_allclose(found["value"][row], value.detach().numpy(), rtol=1e-11, atol=1e-11)
        if gradient:
            grad = torch.autograd.grad(value, u)[0] if value.requires_grad else torch.zeros_like(u)
            np.testing.assert_allclose(found["grad"][:, row], grad.numpy(), rtol=1e-9, atol=1e-10)


def matrix(u: torch.Tensor) -> torch.Tensor:
    return u.reshape(3, 4)


def positive_definite(u: torch.Tensor) -> torch.Tensor:
    root = u[:9].reshape(3, 3)
    return root @ root.mT + 4.0 * torch.eye(3, dtype=torch.float64)


OPERATIONS: dict[str, Function] = {
    "broadcasting": lambda u: matrix(u) * u[:4] + u[:3, None] - 2.0,
    "reflected": lambda u: 2.0 - u + 3.0 / (u + 5.0) + 2.0**u - (5 // 2) * u,
    "alpha": lambda u: torch.add(u, A.reshape(-1), alpha=3) - torch.sub(u, u, alpha=0.5),
    "powers": lambda u: u**2 + u**3 + (u + 3.0) ** 0.5 + (u + 3.0) ** -1 + (u + 3.0) ** (u + 1.0),
    "clamps": lambda u: u.clamp(-0.3, 0.4) + torch.clamp(u, min=A.reshape(-1)) + u.clamp_max(0.2),
    "where": lambda u: torch.where(u > 0.1, u.exp(), -u) + u.masked_fill(u < 0, 2.0),
    "bounds": lambda u: torch.maximum(u, A.reshape(-1)) + torch.minimum(u, u.flip(0)),
    "booleans": lambda u: ((u > 0) & ~(u > 0.5)).double() + (u.isnan() | (u <= 0.2)).double() * u,
    "rounding": lambda u: (3.0 * u).floor() + (3.0 * u).ceil() + (3.0 * u).round() * u + u.trunc() + u.sign(),
    "softplus": lambda u: F.softplus(u) + F.softplus(u, beta=2.0) + F.logsigmoid(u) + torch.sigmoid(u) + u.tanh(),
    "trigonometry": lambda u: u.sin() + u.cos() * u.tan() + torch.atan2(u, u + 3.0) + (0.9 * u).asin() + u.atan(),
    "hyperbolic": lambda u: u.sinh() + u.cosh() + u.asinh() + (0.5 * u).atanh() + (u + 3.0).acosh(),
    "errors": lambda u: torch.erf(u) + torch.erfc(u) + torch.special.ndtr(u) + torch.special.log_ndtr(u),
    "inverse errors": lambda u: torch.erfinv(0.9 * u) + torch.special.ndtri(0.4 * u + 0.5),
    "gammas": lambda u: torch.lgamma(u + 3.0) + torch.digamma(u + 3.0) + torch.special.i0e(u),
    "logarithms": lambda u: (u + 3).log() + (u + 3).log2() + (u + 3).log10() + u.log1p() * u.expm1() + u.exp2(),
    "xlogy": lambda u: torch.xlogy(A.reshape(-1), u + 3.0) + torch.logaddexp(u, 2.0 * u) + torch.logit(0.4 * u + 0.5),
    "lerp": lambda u: torch.lerp(u, 2.0 * u, 0.3) + torch.addcmul(u, u, u, value=0.5) + torch.addcdiv(u, u, u + 3.0),
    "nan_to_num": lambda u: torch.nan_to_num(u / (u > 0).double(), posinf=3.0, neginf=-3.0),
    "cross entropy": lambda u: F.binary_cross_entropy_with_logits(u, (A > 0).double().reshape(-1), reduction="none"),
    "sums": lambda u: matrix(u).sum(0) + matrix(u).sum(-1, keepdim=True).mean() + matrix(u).mean((0, 1)),
    "spreads": lambda u: matrix(u).var(0) + matrix(u).std(0, unbiased=False) + u.var() + torch.var_mean(u)[1],
    "extremes": lambda u: matrix(u).amax(0) - matrix(u).amin(0) + matrix(u).max(0).values + u.max() + u.min(),
    "any and all": lambda u: (matrix(u) > 0).any(0).double() * u[:4] + (matrix(u) > -2).all(0).double(),
    "logsumexp": lambda u: torch.logsumexp(matrix(u), 0) + torch.logsumexp(matrix(u), (0, 1)),
    "softmax": lambda u: F.softmax(matrix(u), -1) + F.log_softmax(matrix(u), 0),
    "norms": lambda u: torch.linalg.norm(u) + torch.linalg.vector_norm(matrix(u), dim=0).sum() + u.norm(1),
    "running": lambda u: matrix(u).cumsum(-1) + (matrix(u) + 2.0).cumprod(0) + torch.logcumsumexp(matrix(u), 0),
    "product": lambda u: (u + 2.0).prod() + (matrix(u) + 2.0).prod(0).sum(),
    "matrices": lambda u: A.mT @ matrix(u) + matrix(u).mT @ matrix(u),
    "vectors": lambda u: A @ u[:4] + u[:3] @ A @ u[:4] + torch.outer(u[:3], u[:3]).sum(),
    "batches": lambda u: (
        torch.bmm(u.reshape(2, 2, 3), u.reshape(2, 3, 2)) + torch.baddbmm(u[:1], A.reshape(2, 2, 3), u.reshape(2, 3, 2))
    ),
    "einsum": lambda u: torch.einsum("ij,kj->ik", matrix(u), A) + torch.einsum("i,j->ij", u[:3], u[3:6]),
    "linear": lambda u: F.linear(matrix(u), A, u[:3]),
    "stacks": lambda u: torch.cat([torch.stack([u[:3], u[3:6]], 1), u[6:12].reshape(3, 2)], -1),
    "views": lambda u: u.reshape(2, 6).mT[1:4, ::1].flatten() + u.unfold(0, 6, 6).reshape(-1)[:6],
    "gathers": lambda u: u[INDEX] + torch.index_select(matrix(u), 0, INDEX)[:, 1] + matrix(u)[INDEX, INDEX],
    "gather": lambda u: torch.gather(matrix(u), 0, INDEX[None]) + torch.take_along_dim(matrix(u), INDEX[None] % 3, 0),
    "masks": lambda u: u[A.reshape(-1) > 0] * 2.0,
    "flips": lambda u: u.flip(0) + u.roll(2) + matrix(u).repeat(1, 2)[:, :4].reshape(-1) + u.repeat_interleave(1),
    "triangles": lambda u: matrix(u).tril() + matrix(u).triu(1) * 2.0,
    "diagonals": lambda u: torch.diag_embed(u[:3]) + torch.diag(u[:3]) + u[:9].reshape(3, 3).diagonal().sum(),
    "scatters": lambda u: (
        torch.zeros(3, dtype=torch.float64).scatter_add(0, INDEX, u[:4]) + u[:3].scatter(0, INDEX[:1], u[5:6])
    ),
    "index_add": lambda u: torch.zeros(3, dtype=torch.float64).index_add(0, INDEX, u[:4]),
    "padding": lambda u: F.pad(matrix(u), (1, 2), value=0.5),
    "cholesky": lambda u: torch.linalg.cholesky(positive_definite(u)),
    "solves": lambda u: torch.linalg.solve_triangular(
        torch.linalg.cholesky(positive_definite(u)), u[9:, None], upper=False
    ),
    "upper": lambda u: torch.linalg.solve_triangular(positive_definite(u).triu(), u[9:, None], upper=True),
    "right": lambda u: torch.linalg.solve_triangular(positive_definite(u).tril(), u[None, 9:], upper=False, left=False),
    "cholesky_solve": lambda u: torch.cholesky_solve(u[9:, None], torch.linalg.cholesky(positive_definite(u))),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_have_the_values_and_gradients_of_torch(name: str) -> None:
    agrees(OPERATIONS[name])


def written_step_by_step(u: torch.Tensor) -> torch.Tensor:
    h = torch.zeros(4, dtype=torch.float64)
    h[0] = u[0]
    for t in range(1, 4):
        h[t] = h[t - 1] * u[t]
    return h


def strided(u: torch.Tensor) -> torch.Tensor:
    k = torch.outer(u[:3], u[:3])
    k.view(-1)[::4] += 2.0
    return k


def overwritten(u: torch.Tensor) -> torch.Tensor:
    x = u * 2.0
    y = x + 1.0
    x.mul_(3.0)
    x[2] = u[0]
    return x + y


def masked(u: torch.Tensor) -> torch.Tensor:
    x = u.clone()
    x[x < 0] = 0.25
    x.masked_fill_(u > 0.5, 1.5)
    return x


def constants_read_in_between(u: torch.Tensor) -> torch.Tensor:
    clock, total = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(4):
        clock += 0.5
        total = total + clock * u[0]
    clock.fill_(7.0)
    return total + clock


def added_at_indices(u: torch.Tensor) -> torch.Tensor:
    x = torch.ones(3, dtype=torch.float64)
    x.index_put_((INDEX,), u[:4], accumulate=True)
    x[torch.tensor([1])] = u[5]
    return x


IN_PLACE = [written_step_by_step, strided, overwritten, masked, constants_read_in_between, added_at_indices]


@pytest.mark.parametrize("function", IN_PLACE, ids=lambda function: function.__name__)
def test_writes_in_place_are_seen(function: Function) -> None:
    agrees(function, gradient=False)


def test_decisions_on_data_are_allowed_and_those_on_latents_are_named() -> None:
    data = torch.tensor([1, 3, 2])

    def by_data(u: torch.Tensor) -> torch.Tensor:
        total = u[: int(data.max())].sum()
        for size in data.tolist():
            total = total + u[:size].sum()
        return total * 2.0 if bool((data > 0).all()) else total

    agrees(by_data)
    for decide in (lambda u: u if u[0] > 0 else -u, lambda u: u * u[0].item(), lambda u: u * float(u[1])):
        with pytest.raises(NotNative, match=r"asks for the value of a latent.*test_record.py:\d+"):
            recorded(decide)
    with pytest.raises(NotNative, match="asks for the value of a latent"):
        recorded(lambda u: u * torch.from_numpy(u.numpy()))


def test_an_operation_that_is_not_known_is_named() -> None:
    with pytest.raises(NotNative, match="_linalg_eigh"):
        recorded(lambda u: torch.linalg.eigvalsh(positive_definite(u)))


def test_a_function_that_computes_outside_of_torch_is_found_at_a_second_point() -> None:
    numbers = iter(range(100))

    def reading(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"value": values["u"].sum() * float(next(numbers))}

    zeros, ones = torch.zeros(DIM, dtype=torch.float64), torch.ones(DIM, dtype=torch.float64)
    with pytest.raises(NotNative, match="does not follow the program"):
        record(reading, {"u": zeros}, {"u": ones})


def test_infinities_and_nan_are_those_of_torch() -> None:
    start = torch.full((DIM,), 0.5, dtype=torch.float64)
    program, reading = recorded(
        lambda u: torch.logsumexp(u[:3], 0) + torch.xlogy(u[3], u[4]) + u[5].clamp(min=0.0), start
    )
    special = [np.inf, -np.inf, np.nan, 0.0]
    for value in special:
        point = np.full((DIM, 1), value)
        found, wanted = interpret(program, {"u": point})["value"][0], reading({"u": torch.from_numpy(point[:, 0])})
        np.testing.assert_array_equal(found, wanted["value"].numpy())


def test_conversions_spelt_as_attributes_of_other_tensors_depend_on_latents() -> None:
    agrees(lambda u: (u > 0.2).type_as(u) * u + (u < 0.0).to(u) + u.gt(0.3).double(), gradient=False)
