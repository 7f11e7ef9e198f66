"""Readings of one program: density, score, prior draw, prediction, each a pure function of named tensors.

Every reading treats a *single* draw, as the program's author wrote it, and returns a flat dictionary;
``batched.Batched`` turns it into a function of thousands of draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites

from phlogiston.engine.program import enumeration, handlers
from phlogiston.engine.program.sites import Bound, Site, Structure, of_latents, of_observed, run, score
from phlogiston.errors import ModelError, problem

Values = dict[str, torch.Tensor]
LIKELIHOOD = "log_likelihood/"


@dataclass(frozen=True)
class Slot:
    """Where a continuous latent lives in the flat unconstrained vector."""

    site: Site
    start: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the site's unconstrained value."""
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
    """The readings of one bound program.

    ``enumerate`` sums the enumerable latents out of densities.
    """

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

    def _run(self, *messengers: Any) -> poutine.Trace:
        trace = prune_subsample_sites(run(self.bound, *messengers, parameters=self.structure.parameters))
        self._insist_on_the_same_sites(trace)
        return trace

    def _insist_on_the_same_sites(self, trace: poutine.Trace) -> None:
        now = {name for name, msg in trace.nodes.items() if msg["type"] == "sample"}
        known = {site.name for site in self.structure.sites if site.role != "parameter"}
        if differ := sorted(now ^ known):
            name = differ[0]
            which = (
                "this run reaches and the first did not" if name in now else "the first run reached and this did not"
            )
            raise ModelError(
                problem(
                    f"site {name!r}",
                    found=f"a statement that {which}",
                    expected="the same sites in every run, whatever the latents",
                    fix="torch.where(condition, a, b) with both a and b drawn every time",
                )
            )

    def _split(self, u: torch.Tensor) -> Values:
        return {slot.site.name: u[slot.start : slot.stop].reshape(slot.shape) for slot in self.slots}

    def density(self, inputs: Values) -> Values:
        """``u [D]`` -> ``value []``: log p(values, observed) + log |d values / d u|, discrete latents summed out."""
        joint, jacobian = self._density(inputs["u"])
        return {"value": joint + jacobian}

    def _density(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        unconstrain = handlers.Unconstrained(self._split(u))
        if self.structure.discrete:
            trace = enumeration.enumerated(self.bound, self.structure, unconstrain)
            log_joint = enumeration.log_evidence(trace)
        else:
            log_joint = _log_prob_sum(self._run(unconstrain))
        return log_joint, sum((v.sum() for v in unconstrain.log_jacobian.values()), torch.zeros(()))

    def joint_and_grad(self, inputs: Values) -> Values:
        """``u [D]`` -> ``value []``: log p(values, observed) alone, and ``grad [D]``."""
        return _value_and_grad(lambda u: self._density(u)[0], inputs["u"])

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
        """Of the continuous latents, with discrete ones summed out; the prior is what draws come from."""
        unconstrain = handlers.Unconstrained(self._split(u))
        if self.structure.discrete:
            joint = enumeration.log_evidence(enumeration.enumerated(self.bound, self.structure, unconstrain))
            again = handlers.Unconstrained(self._split(u))
            trace = enumeration.enumerated(self.bound, self.structure, again)
            prior = enumeration.log_evidence(enumeration.without_observations(trace, self.structure))
            likelihood = joint - prior
        else:
            trace = self._run(unconstrain)
            scored = self._scored(trace)
            nothing = torch.zeros_like(u).sum()  # a number for every point, though nothing be observed
            likelihood = sum((v.sum() for k, v in scored.items() if k.startswith(LIKELIHOOD)), nothing)
            extra = [_scale_correction(site, _message(trace, site.name)) for site in self.structure.of("latent")]
            prior = scored["log_prior"] - sum(extra, torch.zeros(()))
            likelihood = likelihood + sum(extra, torch.zeros(()))
        return prior + sum((v.sum() for v in unconstrain.log_jacobian.values()), torch.zeros(())), likelihood

    def likelihood_and_grad(self, inputs: Values) -> Values:
        """``u [D]`` -> ``value []``, log p(observed | latents), and ``grad [D]``.

        Of discrete latents, each observation takes those that suit it best: the value is then an upper bound.
        """

        def likelihood(u: torch.Tensor) -> torch.Tensor:
            if self.structure.discrete:
                unconstrain = handlers.Unconstrained(self._split(u))
                trace = enumeration.enumerated(self.bound, self.structure, unconstrain)
                return enumeration.highest_likelihood(trace, self.structure)
            scored = self._scored(self._run(handlers.Unconstrained(self._split(u))))
            return sum((v.sum() for k, v in scored.items() if k.startswith(LIKELIHOOD)), torch.zeros(()))

        return _value_and_grad(likelihood, inputs["u"])

    def constrain(self, inputs: Values) -> Values:
        """``u [D]`` -> the continuous latents, and the deterministics where no discrete latent feeds them."""
        trace = self._run(handlers.Unconstrained(self._split(inputs["u"])))
        return self._values(trace, *(site.name for site in self.structure.continuous), *self._fixed_deterministics)

    @property
    def _fixed_deterministics(self) -> tuple[str, ...]:
        return () if self.structure.discrete else tuple(site.name for site in self.structure.of("deterministic"))

    def unconstrain(self, inputs: Values) -> Values:
        """Continuous latents -> ``u [D]``."""
        trace = self._run(handlers.Substitute(inputs))
        parts = [
            handlers.unconstrained(_message(trace, slot.site.name), inputs[slot.site.name]).reshape(-1)
            for slot in self.slots
        ]
        return {"u": torch.cat(parts) if parts else torch.zeros(0)}

    def score(self, inputs: Values) -> Values:
        """All latents -> ``log_prior []`` and ``log_likelihood/<site>`` (pointwise), and the deterministics."""
        return self._scored(self._run(handlers.Substitute(inputs)))

    def propose(self, inputs: Values) -> Values:
        """A draw from the prior: latents, deterministics and ``log_weight []``, its log likelihood."""
        trace = self._run()
        return {**self._values(trace, *self._drawn), "log_weight": self._weight(trace)}

    def weigh(self, inputs: Values) -> torch.Tensor:
        """All latents -> the ``log_weight []`` that ``propose`` gives the draw with these values."""
        return self._weight(self._run(handlers.Substitute(inputs)))

    def _weight(self, trace: poutine.Trace) -> torch.Tensor:
        scored = self._scored(trace)
        weight = sum((v.sum() for k, v in scored.items() if k.startswith(LIKELIHOOD)), torch.zeros(()))
        for site in self.structure.of("latent"):
            weight = weight + _scale_correction(site, _message(trace, site.name))
        return weight

    def complete(self, inputs: Values) -> Values:
        """Some latents given, the rest drawn: ``log_joint []`` and ``log_drawn []`` (of what was drawn), all values."""
        trace = self._run(handlers.Substitute(inputs))
        scored = self._scored(trace)
        joint = scored["log_prior"] + sum(
            (v.sum() for k, v in scored.items() if k.startswith(LIKELIHOOD)), torch.zeros(())
        )
        drawn = torch.zeros(())
        for site in self.structure.of("latent"):
            if site.name not in inputs:
                msg = _message(trace, site.name)
                drawn = drawn + of_latents(site, msg["fn"].log_prob(msg["value"])).sum()
        return {**self._values(trace, *self._drawn), "log_joint": joint, "log_drawn": drawn}

    def simulate(self, inputs: Values) -> Values:
        """Latents given or drawn, everything observed drawn afresh: every site of the program."""
        return self._values(
            self._run(handlers.Substitute(inputs), handlers.Unobserve()), *self._drawn, *self._observables
        )

    def discretes(self, inputs: Values) -> Values:
        """Continuous latents -> a joint posterior draw of the discrete ones, with the deterministics."""
        drawn = enumeration.draw(self.bound, self.structure, handlers.Substitute(inputs))
        values = {**inputs, **drawn}
        if not self.structure.of("deterministic") and not any(site.missing for site in self.structure.discrete):
            return {name: values[name] for name in self._drawn}
        return self._values(self._run(handlers.Substitute(values)), *self._drawn)

    def first_not_finite(self, values: Values) -> tuple[str, float] | None:
        """The first site whose log probability is not finite at these values, with what it is."""
        return _first_not_finite(self._run(handlers.Substitute(values)))

    def without_a_start(self, u: torch.Tensor) -> tuple[str, torch.Tensor, str]:
        """The first site whose log probability or gradient at ``u [D]`` is not finite: name, value, what it is."""
        trace = self._run(handlers.Unconstrained(self._split(u)))
        if (bad := _first_not_finite(trace)) is not None:
            return bad[0], torch.as_tensor(trace.nodes[bad[0]]["value"]), f"a log probability of {bad[1]}"
        grad = self.density_and_grad({"u": u})["grad"]
        for slot in self.slots:
            if not torch.isfinite(part := grad[slot.start : slot.stop]).all():
                value = torch.as_tensor(trace.nodes[slot.site.name]["value"])
                return slot.site.name, value, f"a gradient of {part.tolist()}"
        return self.slots[0].site.name, u, "a density that is not finite in every run"

    @property
    def _drawn(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.structure.of("latent", "deterministic"))

    @property
    def _observables(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.structure.of("observed"))  # those observed in part are latents

    def _values(self, trace: poutine.Trace, *names: str) -> Values:
        return {name: torch.as_tensor(trace.nodes[name]["value"]) for name in names}

    def _scored(self, trace: poutine.Trace) -> Values:
        score(trace)
        result = {"log_prior": torch.zeros(())}
        for site in self.structure.sites:
            if site.role == "latent":
                log_prob = trace.nodes[site.name]["log_prob"]
                result["log_prior"] = result["log_prior"] + of_latents(site, log_prob).sum()
                if site.missing is not None:
                    result[LIKELIHOOD + site.name] = of_observed(site, log_prob)
            elif site.role in ("observed", "factor"):
                result[LIKELIHOOD + site.name] = trace.nodes[site.name]["log_prob"]
        return {**result, **self._values(trace, *(site.name for site in self.structure.of("deterministic")))}


def _value_and_grad(function: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> Values:
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        value = function(u)
        if not value.requires_grad:
            return {"value": value, "grad": torch.zeros_like(u)}
        (grad,) = torch.autograd.grad(value, u)
    return {"value": value.detach(), "grad": grad}


def _log_prob_sum(trace: poutine.Trace) -> torch.Tensor:
    score(trace)
    terms = [msg["log_prob_sum"] for msg in trace.nodes.values() if "log_prob_sum" in msg]
    return sum(terms, torch.zeros(()))


def _first_not_finite(trace: poutine.Trace) -> tuple[str, float] | None:
    for name, msg in score(trace).nodes.items():
        if "log_prob" in msg:
            terms = torch.as_tensor(msg["log_prob"]).reshape(-1)
            bad = terms[~torch.isfinite(terms)]
            if bad.numel():
                return name, float(bad[0])
    return None


def _message(trace: poutine.Trace, name: str) -> dict[str, Any]:
    """A site's message, whose fields Pyro types too narrowly to be used."""
    return cast(dict[str, Any], trace.nodes[name])


def _scale_correction(site: Site, msg: Mapping[str, Any]) -> torch.Tensor:
    """What ``poutine.scale`` adds to a latent's density beyond the density that it was drawn from."""
    if isinstance(msg["scale"], float) and msg["scale"] == 1.0:
        return torch.zeros(())
    unscaled: torch.Tensor = msg["unscaled_log_prob"]
    if msg["mask"] is not None:
        unscaled = torch.where(torch.as_tensor(msg["mask"]), unscaled, torch.zeros(()))
    scaled: torch.Tensor = msg["log_prob"]
    return of_latents(site, scaled - unscaled).sum()
