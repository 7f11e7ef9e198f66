"""A program whose computed output is measured with noise: an observation site where there was none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch.distributions import Distribution

from phlogiston.engine.program.handlers import is_deterministic
from phlogiston.errors import UnsupportedModel, problem

Noise = Callable[[torch.Tensor], Any]


class Measure(Messenger):
    """After a ``pyro.deterministic`` statement, draw a measurement of its value, in the same plates.

    Args:
        site: the statement's name.
        measurement: the name of the new site.
        event_dim: rightmost dimensions of the value that are one event.
        seen: which entries are measured, of the value's shape; None for all.
        noise: value -> distribution of its measurement, entry by entry.
    """

    def __init__(self, site: str, measurement: str, event_dim: int, seen: torch.Tensor | None, noise: Noise) -> None:
        super().__init__()
        self._site, self._name, self._event_dim, self._seen, self._noise = site, measurement, event_dim, seen, noise

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] != self._site or not is_deterministic(msg):
            return
        fn: Any = self._noise(msg["value"])
        if not isinstance(fn, TorchDistributionMixin):
            found = f"a function that gives a {type(fn).__name__}"
            raise UnsupportedModel(
                problem("noise", found=found, expected="a distribution", fix="noise=lambda x: dist.Normal(x, 0.1)")
            )
        fn = fn if self._seen is None else fn.mask(self._seen)
        pyro.sample(self._name, fn.to_event(self._event_dim) if self._event_dim else fn)


def measured(
    program: Callable[..., Any],
    site: str,
    *,
    event_dim: int,
    seen: torch.Tensor | None,
    noise: float | Distribution | Noise,
) -> Callable[..., Any]:
    """The same program with a site ``<site>_seen``, and ``<site>_noise`` where ``noise`` is a prior of its spread."""

    @functools.wraps(program)
    def with_measurement(*args: Any, **kwargs: Any) -> Any:
        given: Any = noise
        spread = pyro.sample(f"{site}_noise", given) if isinstance(noise, Distribution) else given
        around = spread if callable(spread) else functools.partial(_normal, spread)
        with Measure(site, f"{site}_seen", event_dim, seen, around):
            return program(*args, **kwargs)

    return with_measurement


def _normal(spread: Any, value: torch.Tensor) -> Any:
    return Normal(value, spread)
