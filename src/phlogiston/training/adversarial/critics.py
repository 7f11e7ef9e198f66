"""The critic: a network's outputs as a pure function of its parameters, one a row."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from phlogiston.engine.learning.minibatch_terms import call_with
from phlogiston.engine.program.isolate import isolated
from phlogiston.errors import ModelError, problem

_POWER_ITERATIONS = 5


@dataclass(frozen=True)
class Standard:
    """Where data lie: their mean row and one standard deviation, of all coordinates around their means."""

    centre: torch.Tensor
    scale: float

    @staticmethod
    def of(data: torch.Tensor) -> Standard:
        """That of ``[N, ...]``."""
        centre = data.mean(0)
        scale = float((data - centre).square().mean().sqrt())
        return Standard(centre, scale if scale > 0.0 else 1.0)


class Mlp(nn.Module):
    """Two hidden layers over the flattened, standardised data; conditions join, whole numbers as indicator columns."""

    centre: torch.Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        standard: Standard,
        packing: int = 1,
        classes: tuple[int, ...] = (),
        width: int = 128,
    ) -> None:
        super().__init__()
        self.classes, self.scale = classes, standard.scale
        self.register_buffer("centre", standard.centre.reshape(1, -1).repeat(1, packing))
        columns = math.prod(shape) + sum(max(n, 1) for n in classes)
        self.body = nn.Sequential(
            nn.Linear(columns, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )

    def forward(self, x: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        """``x [B, ...]`` and the conditions of each row -> ``[B]``."""
        parts = [(x.reshape(x.shape[0], -1) - self.centre) / self.scale]
        for value, count in zip(conditions, self.classes, strict=True):
            known = torch.arange(max(count, 1), dtype=x.dtype)
            parts.append((value.reshape(-1, 1) == known).to(x.dtype) if count else value.reshape(-1, 1).to(x.dtype))
        out: torch.Tensor = self.body(torch.cat(parts, 1))
        return out.squeeze(-1)


class Critic:
    """A module with its parameters outside of it.

    Args:
        module: ``[B, ...]`` (and conditions) -> ``[B]`` or ``[B, 1]``; None for two hidden layers of 128.
        example: some rows of data.
        conditions: of these rows.
        standard: of all data; None for that of the example.
        classes: how many values each condition has; 0 for numbers.
        packing: rows that are judged together.
        spectral: whether each layer's matrix is divided by its largest singular value.
        seed: of a network that is made here.

    Raises:
        ModelError: the module fails on the data, gives another shape, or has nothing to learn or to teach.
    """

    def __init__(
        self,
        module: nn.Module | None,
        example: torch.Tensor,
        conditions: tuple[torch.Tensor, ...],
        *,
        standard: Standard | None = None,
        classes: tuple[int, ...] = (),
        packing: int = 1,
        spectral: bool = False,
        seed: int = 0,
    ) -> None:
        self.packing, self._spectral, self.standard = packing, spectral, standard or Standard.of(example)
        shape = self.packed(example).shape[1:]
        with isolated(seed=seed, dtype=example.dtype):
            own = (tuple(shape), self.standard, packing, classes * packing)
            made: nn.Module = Mlp(*own) if module is None else copy.deepcopy(module)
            self.module = made.to(example.dtype)
        named = dict(self.module.named_parameters())
        self.names = tuple(name for name, value in named.items() if value.requires_grad)
        self.initial = tuple(named[name].detach().clone() for name in self.names)
        held = {name: value for name, value in named.items() if not value.requires_grad}
        self._buffers = {name: v.detach().clone() for name, v in (*self.module.named_buffers(), *held.items())}
        for rows in (2, 3):  # a critic that knows one number of rows only fails at the other
            index = torch.arange(rows * packing) % len(example)
            self._check(example[index], tuple(value[index] for value in conditions))
        if not self.names:
            raise ModelError(problem("critic", found="no parameter to learn", expected="a network", fix="critic=None"))

    def packed(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, d, ...] -> [B / packing, packing * d, ...]``: neighbours side by side, dimension 1."""
        if self.packing == 1:
            return x
        row = x.shape[1:] or (1,)
        return x.reshape(x.shape[0] // self.packing, self.packing * row[0], *row[1:])

    def __call__(
        self, params: tuple[torch.Tensor, ...], x: torch.Tensor, conditions: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """``x [B, ...]``, packed already, and conditions ``[B * packing]`` -> ``[B]``."""
        named: Mapping[str, torch.Tensor] = dict(zip(self.names, params, strict=True))
        if self._spectral:
            named = {name: normalised(value) if value.ndim > 1 else value for name, value in named.items()}
        split = [part for value in conditions for part in self._unpacked(value)]
        out: Any = call_with(self.module, {**self._buffers, **named}, x, *split)
        return torch.as_tensor(out).reshape(-1)

    def _unpacked(self, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return value.reshape(-1, self.packing, *value.shape[1:]).unbind(1)

    def _check(self, example: torch.Tensor, conditions: tuple[torch.Tensor, ...]) -> None:
        x = self.packed(example)
        split = [part for value in conditions for part in self._unpacked(value)]
        with isolated(seed=0, dtype=example.dtype), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            try:
                out = self.module(x, *split)
            except Exception as error:  # the module is the user's
                found = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                raise ModelError(
                    problem("critic", found=found, expected=f"a module of inputs of shape {tuple(x.shape)}")
                ) from error
        shape = tuple(getattr(out, "shape", ()))
        if shape not in ((x.shape[0],), (x.shape[0], 1)):
            raise ModelError(
                problem(
                    "critic",
                    found=f"an output of shape {shape} for {x.shape[0]} rows",
                    expected=f"one number a row, ({x.shape[0]},) or ({x.shape[0]}, 1)",
                    fix="nn.Linear(width, 1) as its last layer",
                )
            )
        if not bool(torch.isfinite(out).all()):
            raise ModelError(problem("critic", found="outputs at data that are not finite", expected="numbers"))
        if not out.requires_grad or torch.autograd.grad(out.sum(), x, allow_unused=True)[0] is None:
            found = "outputs that carry no gradient to the data"
            raise ModelError(problem("critic", found=found, expected="a differentiable function of them, in torch"))


def normalised(weight: torch.Tensor) -> torch.Tensor:
    """A layer's matrix over its largest singular value, by power iteration from a fixed start.

    References:
        Miyato, Kataoka, Koyama and Yoshida (2018), https://arxiv.org/abs/1802.05957
    """
    matrix = weight.reshape(weight.shape[0], -1)
    held = matrix.detach()
    right = held.square().sum(0).sqrt()
    for _ in range(_POWER_ITERATIONS):
        left = held @ right
        left = left / left.norm().clamp_min(1e-12)
        right = held.mT @ left
        right = right / right.norm().clamp_min(1e-12)
    return weight / (left @ (matrix @ right))
