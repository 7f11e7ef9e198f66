"""Methods by name: one line each."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from phlogiston.errors import UnknownName, did_you_mean

METHODS: dict[str, str] = {
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
}

# What chooses among the methods: known by name like them, but none of them.
CHOOSERS: dict[str, str] = {"auto": "phlogiston.inference.auto.auto:Auto"}

TRAINERS: dict[str, str] = {
    "svi": "phlogiston.inference.methods.svi:SVI",
    "adversarial": "phlogiston.training.adversarial.trainer:Adversarial",
}


def method_class(name: str, registered: dict[str, str] = METHODS) -> Any:
    """The class that the name of a method, or of a trainer, stands for.

    Raises:
        UnknownName: there is no such method; the nearest name is in the message.
    """
    known = {**registered, **CHOOSERS} if registered is METHODS else registered
    if name not in known:
        kind = "method" if registered is METHODS else "trainer"
        raise UnknownName(f"unknown {kind} {name!r}; {did_you_mean(name, known)}")
    module, attribute = known[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def name_of(method: Any) -> str:
    """The registered name of a method (an instance or a class), else its class name in lower case."""
    kind = method if isinstance(method, type) else type(method)
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, where in {**METHODS, **CHOOSERS}.items() if where == path), kind.__name__.lower())


def make(
    name: str,
    settings: dict[str, Any],
    registered: dict[str, str] = METHODS,
    verb: Callable[..., Any] | None = None,
) -> Any:
    """A method, or a trainer, from its name and settings, which ``verb`` took beside keywords of its own.

    Raises:
        UnknownName: no such method, or no such setting; the nearest name is in the message.
    """
    kind = method_class(name, registered)
    known = dict.fromkeys(f.name for f in dataclasses.fields(kind))
    for setting in settings:
        if setting not in known:
            what = "method" if registered is METHODS else "trainer"
            named = {**known, **_keywords(verb)}
            raise UnknownName(f"{what} {name!r} has no setting {setting!r}; {did_you_mean(setting, named)}")
    return kind(**settings)


def _keywords(verb: Callable[..., Any] | None) -> dict[str, None]:
    parameters = [] if verb is None else inspect.signature(verb).parameters.values()
    return dict.fromkeys(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
