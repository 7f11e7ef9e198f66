"""Expectations over the discrete latents of a guide that it asks to enumerate: sums, in the place of draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger

from phlogiston.engine.program.sites import Bound, run
from phlogiston.errors import UnsupportedModel, problem


def is_enumerated(msg: Mapping[str, Any]) -> bool:
    """Whether a site of a guide asks to be summed over, by ``infer={"enumerate": "parallel"}``.

    Raises:
        UnsupportedModel: it has no finite support.
    """
    if msg["infer"].get("enumerate") != "parallel":
        return False
    if not msg["fn"].has_enumerate_support:
        raise UnsupportedModel(
            problem(
                f"guide, site {msg['name']!r}",
                found=f"enumeration of a {type(msg['fn']).__name__}, which has no finite list of values",
                expected="a Categorical, Bernoulli or Binomial, or the score function",
                fix=f"pyro.sample({msg['name']!r}, ...) without infer",
            )
        )
    return True


def in_parallel(bound: Bound, nesting: int, params: Mapping[str, torch.Tensor]) -> poutine.Trace:
    """A trace of a guide in which the sites that ask for it take all their values, in dimensions left of its plates."""
    return run(bound, EnumMessenger(-1 - nesting), parameters=params)


@dataclass(frozen=True)
class Weights:
    """Probabilities of a guide's enumerated latents, each with its states along a dimension of its own.

    Args:
        by_dim: from the dimension, left of all plates and counted from the right, to probabilities, which may depend on
            states of others.
        nesting: number of dimensions of plates.
    """

    by_dim: Mapping[int, torch.Tensor]
    nesting: int

    @staticmethod
    def of(messages: Iterable[Mapping[str, Any]], nesting: int) -> Weights:
        """Those of the sites of a guide that was run with all states in parallel."""
        found = {}
        for msg in messages:
            dim = msg["infer"]["_enumerate_dim"]
            found[dim] = torch.softmax(msg["fn"].log_prob(msg["value"]), dim)  # a masked site's states are all alike
        return Weights(found, nesting)

    def expect(self, name: str, value: torch.Tensor) -> torch.Tensor:
        r"""A term of a site, ``[states..., plates...]`` -> its expectation, ``[plates...]``.

        It is summed over the latents that it depends on and those that these depend on; of the others the
        probabilities add up to one.
        """
        dims = self._of(value)
        while len(grown := dims.union(*(self._of(self.by_dim[dim]) for dim in dims))) > len(dims):
            dims = grown
        inside = tuple(value.shape[-self.nesting :]) if self.nesting else ()
        for dim in dims:
            value = value * self.by_dim[dim]
        value = value.sum(sorted(dims), keepdim=True) if dims else value
        value = value.reshape(value.shape[max(0, value.ndim - self.nesting) :])
        if value.numel() > torch.Size(inside).numel():
            raise UnsupportedModel(
                problem(
                    f"site {name!r}",
                    found="a term outside of a plate that depends on a discrete latent of the guide inside of it",
                    expected="latents that are shared not to depend on those of single rows",
                )
            )
        return value

    def _of(self, value: torch.Tensor) -> set[int]:
        return {dim for dim in self.by_dim if value.ndim >= -dim and value.shape[dim] > 1}
