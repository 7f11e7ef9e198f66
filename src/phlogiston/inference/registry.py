"""Methods by name: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from phlogiston.model.registry import Registry


def _is_method(item: Any) -> bool:
    return callable(item) and getattr(item, "needs", None) is not None


# What chooses among the methods: known by name like them, but none of them.
CHOOSERS: dict[str, str] = {"auto": "phlogiston.inference.auto.auto:Auto"}

METHODS = Registry(
    "method",
    {
        "exact": "phlogiston.inference.methods.exact:Exact",
        "rejection": "phlogiston.inference.methods.rejection:Rejection",
        "importance": "phlogiston.inference.methods.importance:Importance",
        "hmc": "phlogiston.inference.methods.hmc:HMC",
        "nuts": "phlogiston.inference.methods.nuts:NUTS",
        "mh": "phlogiston.inference.methods.mh:MH",
        "gibbs": "phlogiston.inference.methods.gibbs:Gibbs",
        "map": "phlogiston.inference.methods.modes:MAP",
        "laplace": "phlogiston.inference.methods.modes:Laplace",
        "pathfinder": "phlogiston.inference.methods.pathfinder:Pathfinder",
        "svi": "phlogiston.inference.methods.svi:SVI",
        "smc": "phlogiston.inference.methods.smc:SMC",
        "ais": "phlogiston.inference.methods.ais:AIS",
    },
    unlisted=CHOOSERS,
    accepts=_is_method,
    expected="a class with `needs` and `__call__(model, *, seed, progress)`, as in ph.Method",
)


def method_class(name: str) -> Any:
    """The class that the name of a method stands for.

    Raises:
        UnknownName: there is no such method; the nearest name is in the message.
    """
    return METHODS[name]


def name_of(method: Any) -> str:
    """The registered name of a method (an instance or a class), else its class name in lower case."""
    return METHODS.name_of(method)


def make(name: str, settings: Mapping[str, Any], verb: Callable[..., Any] | None = None) -> Any:
    """A method from its name and settings, which ``verb`` took beside keywords of its own.

    Raises:
        UnknownName: there is no such method or setting; the nearest name is in the message.
    """
    return METHODS.make(name, settings, verb)


def methods_for(structure: Any) -> str:
    """The names of the methods that can treat the sites of a program, for a message."""
    return ", ".join(name for name in METHODS if METHODS[name].needs.unmet(structure) is None) or "none"
