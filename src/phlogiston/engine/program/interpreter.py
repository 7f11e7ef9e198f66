"""Readings of one program: density, score, prior draw, prediction, each a pure function of named tensors.

Every reading treats a *single* draw, as the program's author wrote it, and returns a flat dictionary;
``engine.trace.batched.Batched`` turns it into a function of thousands of draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from phlogiston.engine.program import enumeration, handlers
from phlogiston.engine.program.gradients import Fault, first_fault
from phlogiston.engine.program.reading import Reading, Values, read
from phlogiston.engine.program.sites import Bound, Site, Structure

LIKELIHOOD = "log_likelihood/"


@dataclass(frozen=True)
class Slot:
    """Where a continuous latent lives in the flat unconstrained vector."""

    site: Site
    start: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the site's unconstrained value."""
        assert self.site.unconstrained_shape is not None
        return self.site.unconstrained_shape

    @property
    def stop(self) -> int:
        """One past its last position."""
        return self.start + math.prod(self.shape)


def layout(structure: Structure) -> tuple[Slot, ...]:
    """The continuous latents one after another, in program order."""
    slots: list[Slot] = []
    for site in structure.continuous:
        slots.append(Slot(site, slots[-1].stop if slots else 0))
    return tuple(slots)


@dataclass(frozen=True)
class Interpreter:
    """The readings of one bound program."""

    bound: Bound
    structure: Structure

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Where each continuous latent lives."""
        return layout(self.structure)

    @property
    def dim(self) -> int:
        """Length of the unconstrained vector."""
        return self.slots[-1].stop if self.slots else 0

    def _read(self, *messengers: Any, sum_out: bool = False) -> Reading:
        return read(self.bound, self.structure, *messengers, sum_out=sum_out)

    def _at(self, u: torch.Tensor) -> Reading:
        """Read the program at an unconstrained point ``u [D]``, discrete latents summed out."""
        return self._read(handlers.Unconstrained(self._split(u)), sum_out=True)

    def _split(self, u: torch.Tensor) -> Values:
        return {slot.site.name: u[slot.start : slot.stop].reshape(slot.shape) for slot in self.slots}

    def density(self, inputs: Values) -> Values:
        """``u [D]`` -> ``value []``: log p(values, observed) + log |d values / d u|, discrete latents summed out."""
        reading = self._at(inputs["u"])
        return {"value": reading.joint + reading.jacobian}

    def joint_density(self, inputs: Values) -> Values:
        """``u [D]`` -> ``value []``: log p(values, observed) alone."""
        return {"value": self._at(inputs["u"]).joint}

    def joint_and_grad(self, inputs: Values) -> Values:
        """``u [D]`` -> ``value []``: log p(values, observed) alone, and ``grad [D]``."""
        return _value_and_grad(lambda u: self._at(u).joint, inputs["u"])

    def density_and_grad(self, inputs: Values) -> Values:
        """``u [D]`` -> ``value []`` and ``grad [D]``."""
        return _value_and_grad(lambda u: self.density({"u": u})["value"], inputs["u"])

    def tempered(self, inputs: Values) -> Values:
        """``u [D]``, ``beta []`` -> ``prior []`` with the Jacobian, ``likelihood []``, ``grad [D]`` of the blend."""
        u = inputs["u"].detach().requires_grad_()
        with torch.enable_grad():
            prior, likelihood = self._prior_and_likelihood(u)
            blend = prior + inputs["beta"] * likelihood
            grad = torch.autograd.grad(blend, u)[0] if blend.requires_grad else torch.zeros_like(u)
        return {"prior": prior.detach(), "likelihood": likelihood.detach(), "grad": grad}

    def _prior_and_likelihood(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log prior and log likelihood of the continuous latents, discrete ones summed out of both."""
        reading = self._at(u)
        nothing = torch.zeros_like(u).sum()  # a number for every point, though nothing be observed
        return reading.base + reading.jacobian, reading.weight + nothing

    def likelihood_and_grad(self, inputs: Values) -> Values:
        """``u [D]`` -> ``value []``, log p(observed | latents), and ``grad [D]``.

        Of discrete latents, each observation takes those that suit it best: the value is then an upper bound.
        """

        def likelihood(u: torch.Tensor) -> torch.Tensor:
            reading = self._at(u)
            return enumeration.highest_likelihood(reading) if reading.summed else reading.likelihood

        return _value_and_grad(likelihood, inputs["u"])

    def constrain(self, inputs: Values) -> Values:
        """``u [D]`` -> the continuous latents, and the deterministics where no discrete latent feeds them."""
        reading = self._read(handlers.Unconstrained(self._split(inputs["u"])))
        return reading.values(*(site.name for site in self.structure.continuous), *self._fixed_deterministics)

    @property
    def _fixed_deterministics(self) -> tuple[str, ...]:
        return () if self.structure.discrete else tuple(site.name for site in self.structure.of("deterministic"))

    def unconstrain(self, inputs: Values) -> Values:
        """Continuous latents -> ``u [D]``."""
        reading = self._read(handlers.Substitute(inputs))
        parts = [
            handlers.unconstrained(reading.message(slot.site.name), inputs[slot.site.name]).reshape(-1)
            for slot in self.slots
        ]
        return {"u": torch.cat(parts) if parts else torch.zeros(0)}

    def score(self, inputs: Values) -> Values:
        """All latents -> ``log_prior []`` and ``log_likelihood/<site>`` (pointwise), and the deterministics."""
        reading = self._read(handlers.Substitute(inputs))
        pointwise = {LIKELIHOOD + name: value for name, value in reading.observed.items()}
        return {
            "log_prior": reading.prior,
            **pointwise,
            **reading.values(*(site.name for site in self.structure.of("deterministic"))),
        }

    def propose(self, inputs: Values) -> Values:
        """A draw from the prior: latents, deterministics and ``log_weight []``, its log likelihood."""
        reading = self._read()
        return {**reading.values(*self._drawn), "log_weight": reading.weight}

    def weigh(self, inputs: Values) -> torch.Tensor:
        """All latents -> the ``log_weight []`` that ``propose`` gives the draw with these values."""
        return self._read(handlers.Substitute(inputs)).weight

    def complete(self, inputs: Values) -> Values:
        """Some latents given, the rest drawn: ``log_joint []`` and ``log_drawn []`` (of what was drawn), all values."""
        reading = self._read(handlers.Substitute(inputs))
        drawn = [reading.drawn(site).sum() for site in self.structure.of("latent") if site.name not in inputs]
        return {
            **reading.values(*self._drawn),
            "log_joint": reading.joint,
            "log_drawn": sum(drawn, torch.zeros(())),
        }

    def simulate(self, inputs: Values) -> Values:
        """Latents given or drawn, everything observed drawn afresh: every site of the program."""
        observable = (site.name for site in self.structure.of("observed"))  # those observed in part are latents
        return self._read(handlers.Substitute(inputs), handlers.Unobserve()).values(*self._drawn, *observable)

    def discretes(self, inputs: Values) -> Values:
        """Continuous latents -> a joint posterior draw of the discrete ones, with the deterministics."""
        drawn = enumeration.draw(self.bound, self.structure, handlers.Substitute(inputs))
        values = {**inputs, **drawn}
        if not self.structure.of("deterministic") and not any(site.missing for site in self.structure.discrete):
            return {name: values[name] for name in self._drawn}
        return self._read(handlers.Substitute(values)).values(*self._drawn)

    def first_not_finite(self, values: Values) -> tuple[str, float] | None:
        """The first site whose log probability is not finite at these values, with what it is."""
        return _first_not_finite(self._read(handlers.Substitute(values)))

    def without_a_start(self, u: torch.Tensor) -> tuple[str, torch.Tensor, str]:
        """The first site whose log probability or gradient at ``u [D]`` is not finite: name, value, what it is."""
        reading = self._read(handlers.Unconstrained(self._split(u)))
        if (bad := _first_not_finite(reading)) is not None:
            return bad[0], reading.values(bad[0])[bad[0]], f"a log probability of {bad[1]}"
        grad = self.density_and_grad({"u": u})["grad"]
        for slot in self.slots:
            if not torch.isfinite(part := grad[slot.start : slot.stop]).all():
                fault = self._fault(u)
                name, found = slot.site.name, f"a gradient of {part.tolist()}"
                name, found = (name, found) if fault is None else (fault.site, f"{fault}, where {name} is")
                return name, reading.values(slot.site.name)[slot.site.name], found
        return self.slots[0].site.name, u, "a density that is not finite in every run"

    def _fault(self, u: torch.Tensor) -> Fault | None:
        """The term and the operation that make the gradient not finite."""
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            return first_fault(lambda: self._read(handlers.Unconstrained(self._split(u))).terms, u)

    @property
    def _drawn(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.structure.of("latent", "deterministic"))


def _value_and_grad(function: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> Values:
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        value = function(u)
        if not value.requires_grad:
            return {"value": value, "grad": torch.zeros_like(u)}
        (grad,) = torch.autograd.grad(value, u)
    return {"value": value.detach(), "grad": grad}


def _first_not_finite(reading: Reading) -> tuple[str, float] | None:
    for name, term in reading.terms.items():
        bad = term.reshape(-1)[~torch.isfinite(term.reshape(-1))]
        if bad.numel():
            return name, float(bad[0])
    return None
