"""Normalising flows as guides: neural spline flows of zuko, from noise to points."""

from __future__ import annotations

import math
from typing import Any

import torch

from phlogiston.engine.learning.minibatch_terms import call_with
from phlogiston.engine.program.isolate import isolated
from phlogiston.errors import SettingError, problem
from phlogiston.training.guides import Guide, Params

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class _Push(torch.nn.Module):
    """Noise ``[S, D]`` -> points and log |d point / d noise|; all in one call, in which parameters can be exchanged."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        pushed: tuple[torch.Tensor, torch.Tensor] = self.flow().transform.call_and_ladj(noise)
        return pushed


def flow(loc: torch.Tensor, scale: torch.Tensor, seed: int) -> Guide:
    r"""A neural spline flow in the direction that variational inference needs, noise to points.

    :math:`u = m + s \odot f(\epsilon)`, with autoregressive rational-quadratic splines :math:`f`, so that a draw and
    its density take one pass (an inverse autoregressive flow). The density of other points is not needed.

    Raises:
        SettingError: zuko is not installed.

    References:
        Kingma et al. (2016), https://arxiv.org/abs/1606.04934; Durkan, Bekasov, Murray and Papamakarios (2019),
        https://arxiv.org/abs/1906.04032
    """
    try:
        import zuko
    except ImportError as error:
        raise SettingError(
            problem("guide", found="'flow' without zuko", expected="zuko", fix="pip install 'phlogiston[flows]'")
        ) from error
    dim = loc.shape[0]
    with isolated(seed=seed, dtype=loc.dtype):
        push = _Push(zuko.flows.NSF(features=dim, transforms=2, hidden_features=(32, 32), bins=8)).to(loc.dtype)
    initial = {f"flow.{name}": value.detach().clone() for name, value in push.named_parameters()}

    def drawn(params: Params, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own = {name.removeprefix("flow."): value for name, value in params.items() if name.startswith("flow.")}
        pushed, log_det = call_with(push, own, noise.mT)
        u = params["loc"][:, None] + params["log_scale"].exp()[:, None] * pushed.mT
        log_q = -0.5 * noise.square().sum(0) - dim * _HALF_LOG_TAU - log_det - params["log_scale"].sum()
        return u, log_q

    def draw(params: Params, noise: torch.Tensor) -> torch.Tensor:
        return drawn(params, noise)[0]

    start = {"loc": loc, "log_scale": scale.log(), **initial}
    return Guide("flow", start, dim, draw, None, None, drawn)
