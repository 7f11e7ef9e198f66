"""The effect handlers that interpret a Pyro program: observe, substitute, un-observe, unconstrain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from pyro.poutine.messenger import Messenger
from torch.distributions import biject_to

Message = dict[str, Any]


def is_plate_index(msg: Message) -> bool:
    """The pseudo-site by which a plate announces its indices."""
    return type(msg["fn"]).__name__ == "_Subsample"


def is_deterministic(msg: Message) -> bool:
    """A ``pyro.deterministic`` statement."""
    return bool(msg["infer"].get("_deterministic"))


def is_factor(msg: Message) -> bool:
    """A ``pyro.factor`` statement."""
    return isinstance(base(msg["fn"]), Unit)


def is_data(msg: Message) -> bool:
    """A sample statement that draws or observes something."""
    return not (is_plate_index(msg) or is_deterministic(msg) or is_factor(msg))


def is_point_mass(msg: Message) -> bool:
    """A latent ``Delta``: a value, not a random variable."""
    return isinstance(base(msg["fn"]), Delta)


def base(fn: Any) -> Any:
    """The distribution under masks, events and expansions."""
    while hasattr(fn, "base_dist") and type(fn).__name__ in (
        "MaskedDistribution",
        "Independent",
        "ExpandedDistribution",
    ):
        fn = fn.base_dist
    return fn


class Observe(Messenger):
    """Condition sites on values, by name; a value given here overrides the program's own ``obs=``."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self._values and is_data(msg):
            msg["value"], msg["is_observed"] = self._values[msg["name"]], True


class Unobserve(Messenger):
    """Let sites that the program or the user observes be drawn instead; all of them, or those named."""

    def __init__(self, names: frozenset[str] | None = None) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Message) -> None:
        wanted = self._names is None or msg["name"] in self._names
        if wanted and msg["is_observed"] and is_data(msg):
            msg["value"], msg["is_observed"] = None, False


class Substitute(Messenger):
    """Give latent sites their values, by name; the sites stay latent."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self._values and not msg["is_observed"] and is_data(msg):
            msg["value"] = self._values[msg["name"]]


class Unconstrained(Messenger):
    """Map each continuous latent from the real line through the bijection of its support, as the program runs.

    The support may depend on latents that were mapped before it. ``log_jacobian`` collects
    log |d value / d u| of every site.
    """

    def __init__(self, unconstrained: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._unconstrained = unconstrained
        self.log_jacobian: dict[str, torch.Tensor] = {}

    def _pyro_sample(self, msg: Message) -> None:
        u = self._unconstrained.get(msg["name"])
        if u is None or msg["is_observed"]:
            return
        bijection = biject_to(msg["fn"].support)
        value = bijection(u)
        jacobian = bijection.log_abs_det_jacobian(u, value)
        self.log_jacobian[msg["name"]] = jacobian.sum()
        msg["value"] = value


class Fallback(Messenger):
    """Give a value to latents that cannot be drawn (improper priors), so that a program can run once."""

    def _pyro_sample(self, msg: Message) -> None:
        if msg["value"] is not None or not is_improper(msg["fn"]):
            return
        bijection = biject_to(msg["fn"].support)
        shape = bijection.inverse_shape(torch.Size(msg["fn"].batch_shape + msg["fn"].event_shape))
        msg["value"] = bijection(torch.zeros(shape))


class Precision(Messenger):
    """Give drawn values the precision of the run (the default dtype), whatever that of tensors a program captured."""

    def _pyro_post_sample(self, msg: Message) -> None:
        value = msg["value"]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            msg["value"] = value.to(torch.get_default_dtype())


def is_improper(fn: Any) -> bool:
    """Whether a distribution is an improper flat prior."""
    return type(base(fn)).__name__ == "ImproperUniform"


class Parameters(Messenger):
    """Hold ``pyro.param`` statements at given (constrained) values."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_param(self, msg: Message) -> None:
        if msg["name"] in self._values:
            msg["value"], msg["done"] = self._values[msg["name"]], True


class MarkEnumerable(Messenger):
    """Ask for parallel enumeration at the sites that a predicate picks."""

    def __init__(self, wanted: Callable[[Message], bool]) -> None:
        super().__init__()
        self._wanted = wanted

    def _pyro_sample(self, msg: Message) -> None:
        if msg["value"] is None and is_data(msg) and self._wanted(msg):
            msg["infer"]["enumerate"] = "parallel"
