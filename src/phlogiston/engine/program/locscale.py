"""Latents drawn around others with the scale of others: which they are, and the same program in other coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from pyro.infer.reparam import AutoReparam, LocScaleReparam
from pyro.poutine.reparam_messenger import ReparamMessenger

from phlogiston.engine.program import handlers
from phlogiston.engine.program.isolate import isolated, name_of, signature_of
from phlogiston.engine.program.sites import Bound, Structure, run
from phlogiston.errors import ProgramError

SUFFIX = "_decentered"  # what Pyro adds to a site's name
PARAMETER = "_centered"


@dataclass(frozen=True)
class Centred:
    """A latent of a location-scale family whose location or scale other latents set."""

    site: str
    loc: tuple[str, ...]
    scale: tuple[str, ...]

    @property
    def is_funnel(self) -> bool:
        """Whether its scale is a latent, so that it can shrink to nothing."""
        return bool(self.scale)

    def __str__(self) -> str:
        around = f"around {', '.join(self.loc)} " if self.loc else ""
        return f"{self.site} is drawn {around}with the latent scale {', '.join(self.scale)}"


def centred_sites(bound: Bound, structure: Structure) -> tuple[Centred, ...]:
    """The latents that non-centring would change, in program order.

    They are those for which Pyro's ``AutoReparam`` takes its ``LocScaleReparam``, and whose location or scale changes
    with continuous latents, as gradients through one run of the program tell; none where it lets no gradient pass.
    """
    latents = [site for site in structure.continuous if site.missing is None]
    with isolated(seed=0, dtype=torch.float64):
        with torch.no_grad():
            first = run(bound, parameters=structure.parameters)
        drawn = {site.name: torch.as_tensor(first.nodes[site.name]["value"]) for site in latents}
        values = {name: value.detach().clone().requires_grad_() for name, value in drawn.items()}
        try:
            with torch.enable_grad():
                trace = run(bound, handlers.Substitute(values), parameters=structure.parameters)
        except ProgramError:  # it ran before, without gradients
            return ()
        found = []
        for site in latents:
            msg = cast(dict[str, Any], trace.nodes[site.name])
            if site.name.endswith(SUFFIX) or not isinstance(AutoReparam().configure(msg), LocScaleReparam):
                continue
            fn = handlers.base(msg["fn"])
            others = {name: value for name, value in values.items() if name != site.name}
            centred = Centred(site.name, _feeding(fn.loc, others), _feeding(fn.scale, others))
            if centred.loc or centred.scale:
                found.append(centred)
    return tuple(found)


def _feeding(tensor: torch.Tensor, latents: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """The latents that a tensor was computed from."""
    if not tensor.requires_grad or not latents:
        return ()
    grads = torch.autograd.grad(tensor.sum(), list(latents.values()), retain_graph=True, allow_unused=True)
    return tuple(name for name, grad in zip(latents, grads, strict=True) if grad is not None)


class Recentred:
    """A program whose location-scale latents are drawn on another scale and computed back, each under its own name.

    Args:
        program: the program as it was written.
        centred: site -> how centred it is, from 0 (drawn standardised) to 1 (as written); None makes it a parameter of
            the program, ``<site>_centered``, that training learns.
    """

    def __init__(self, program: Callable[..., Any], centred: Mapping[str, float | torch.Tensor | None]) -> None:
        self.program, self.centred = program, dict(centred)
        self.__wrapped__ = program
        self.__name__ = name_of(program)
        self.__code__ = getattr(program, "__code__", None)
        self.__signature__ = signature_of(program)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program in its other coordinates."""
        with _Recentre(self.centred):
            return self.program(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Recentred, (self.program, self.centred)


class _Recentre(ReparamMessenger):
    """Pyro's handler, whose computed sites count as ``pyro.deterministic`` statements."""

    def __init__(self, centred: Mapping[str, float | torch.Tensor | None]) -> None:
        super().__init__({name: LocScaleReparam(centered=value) for name, value in centred.items()})
        self._names = frozenset(name for name, value in centred.items() if not _is_one(value))

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            return
        super()._pyro_sample(msg)
        if msg["name"] in self._names:
            msg["infer"] = {**msg["infer"], "_deterministic": True}


def _is_one(value: float | torch.Tensor | None) -> bool:
    return value is not None and bool(torch.as_tensor(value == 1.0).all())
