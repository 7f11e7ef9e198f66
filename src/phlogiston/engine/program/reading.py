"""One run of a program, read site by site: the log probability of each site, and the sums that are made of them.

Every density of this library is one of these sums. What a construct of the language means for a density (a mask, a
scale, a missing entry, a point mass, a discrete latent that is summed out) is therefore said here, or in the handlers
under which the program runs, and nowhere else.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from pyro import poutine
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import prune_subsample_sites

from phlogiston.engine.program import handlers
from phlogiston.engine.program.plates import in_plate
from phlogiston.engine.program.sites import Bound, Plate, Site, Structure, run, score
from phlogiston.errors import ModelError, ProgramError, UnsupportedModel, problem

Values = dict[str, torch.Tensor]
_NO_BRANCHES = (
    "a discrete latent is summed out by running the program once with all its values in a tensor, which an `if` cannot "
    "ask for one; expected tables indexed by it; write: torch.tensor([if_0, if_1])[z.long()], or use 'importance'"
)


@dataclass(frozen=True)
class Reading:
    """A run of a program with the log probability of each of its sites.

    Args:
        structure: what the program consists of.
        trace: of the run.
        log_jacobian: log |d value / d u| of the latents that were mapped from the real line, element by element.
        summed: whether discrete latents took all their values in parallel, each in a dimension left of the plates, and
            are summed out of ``joint``, ``prior`` and ``rows``.
    """

    structure: Structure
    trace: poutine.Trace
    log_jacobian: Mapping[str, torch.Tensor]
    summed: bool

    def message(self, name: str) -> dict[str, Any]:
        """A site's message, whose fields Pyro types too narrowly to be used."""
        return cast(dict[str, Any], self.trace.nodes[name])

    def values(self, *names: str) -> Values:
        """The sites' values."""
        return {name: torch.as_tensor(self.trace.nodes[name]["value"]) for name in names}

    @cached_property
    def _log_probs(self) -> Values:
        score(self.trace)
        found = {}
        for site in self.structure.sites:
            if site.role != "parameter" and "log_prob" in (msg := self.message(site.name)):
                log_prob = torch.as_tensor(msg["log_prob"])
                found[site.name] = self._without_loose(msg, log_prob) if self.summed else log_prob
        return found

    def _without_loose(self, msg: Mapping[str, Any], log_prob: torch.Tensor) -> torch.Tensor:
        """Batch dimensions outside of any plate are events of a kind: they are summed before states are."""
        plates = {frame.dim for frame in msg["cond_indep_stack"]}
        loose = [dim for dim in range(-min(self.structure.plate_nesting, log_prob.ndim), 0) if dim not in plates]
        return log_prob.sum(loose, keepdim=True) if loose else log_prob

    @cached_property
    def latent(self) -> Values:
        """Log probabilities of latents (and of point masses), those of observed entries zero."""
        sites = [site for site in self.structure.of("latent", "deterministic") if site.name in self._log_probs]
        return {site.name: self._of_latents(site) for site in sites}

    @cached_property
    def observed(self) -> Values:
        """Log probabilities of what was observed and of factors, those of missing entries zero."""
        found = {}
        for site in self.structure.of("latent", "observed", "factor"):
            log_prob = self._log_probs[site.name]
            if site.missing is not None:
                found[site.name] = torch.where(site.missing.events(site.event_dim), 0.0, log_prob)
            elif site.role != "latent":
                found[site.name] = log_prob
        return found

    @cached_property
    def terms(self) -> Values:
        """Log probabilities of all sites in program order, masks and scales applied; their sum is the joint density."""
        both = {**self.latent, **self.observed}
        both |= {name: self.latent[name] + self.observed[name] for name in self.latent.keys() & self.observed.keys()}
        return {site.name: both[site.name] for site in self.structure.sites if site.name in both}

    def _of_latents(self, site: Site) -> torch.Tensor:
        log_prob = self._log_probs[site.name]
        if site.missing is None:
            return log_prob
        entries = site.missing.events(site.event_dim)
        # All states of an entry that was observed are what was observed: together they count once.
        once = math.log(site.states) if self.summed and site.discrete and site.states else 0.0
        return torch.where(entries, log_prob, -once)

    def drawn(self, site: Site) -> torch.Tensor:
        """Log density that a latent's entries were drawn from: without mask and scale."""
        assert self._log_probs  # which are computed with the unscaled ones
        log_prob = torch.as_tensor(self.message(site.name)["unscaled_log_prob"])
        return log_prob if site.missing is None else torch.where(site.missing.events(site.event_dim), log_prob, 0.0)

    @cached_property
    def _scaling(self) -> torch.Tensor:
        """What ``poutine.scale`` and point masses add to the density that latents are drawn from."""
        total = torch.zeros(())
        for name, term in self.latent.items():
            site, msg = self.structure[name], self.message(name)
            if site.role != "latent":
                total = total + term.sum()
            elif not (isinstance(msg["scale"], float) and msg["scale"] == 1.0):
                mask = torch.as_tensor(True if msg["mask"] is None else msg["mask"])
                total = total + (term - torch.where(mask, self.drawn(site), torch.zeros(()))).sum()
        return total

    def total(self, terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum of these terms; where latents are summed out, log of the sum over all their values."""
        parts = list(terms.values())
        if self.summed:
            parts = [part for contracted in self._contracted(terms).values() for part in contracted]
        return sum((part.sum() for part in parts), torch.zeros(()))

    @cached_property
    def joint(self) -> torch.Tensor:
        """log p(latents, observed), ``[]``."""
        return self.total(self.terms)

    @cached_property
    def prior(self) -> torch.Tensor:
        """log p(latents), ``[]``."""
        return self.total(self.latent)

    @cached_property
    def likelihood(self) -> torch.Tensor:
        """log p(observed | latents), ``[]``."""
        return self.joint - self.prior if self.summed else self.total(self.observed)

    @cached_property
    def base(self) -> torch.Tensor:
        """The log density that latents are drawn from, ``[]``: the prior without scales and point masses."""
        if self.summed:
            return self.total({name: v for name, v in self.latent.items() if self.structure[name].role == "latent"})
        return self.prior - self._scaling

    @cached_property
    def weight(self) -> torch.Tensor:
        """The log weight of latents that were drawn from ``base``, ``[]``: the likelihood, and all that scales add."""
        return self.joint - self.base if self.summed else self.likelihood + self._scaling

    @cached_property
    def jacobian(self) -> torch.Tensor:
        """The sum of ``log_jacobian``, ``[]``."""
        return sum((value.sum() for value in self.log_jacobian.values()), torch.zeros(()))

    def is_single(self, name: str) -> bool:
        """Whether a site's term is a number for each element of its plates: no latent that is summed out feeds it."""
        return self.terms[name].ndim <= self.structure.plate_nesting and not (
            self.summed and self.structure[name].discrete and self.structure[name].role == "latent"
        )

    def outside(self, plate: Plate) -> list[str]:
        """The sites outside of a plate that no latent feeds which is summed out."""
        inside = {site.name for site in self.structure.sites if in_plate(site, plate.name)}
        return [name for name in self.terms if name not in inside and self.is_single(name)]

    def sum_of(self, names: Collection[str]) -> torch.Tensor:
        """The sum of some sites' terms, ``[]``."""
        return sum((self.terms[name].sum() for name in self.terms if name in names), torch.zeros(()))

    def without(self, names: Collection[str]) -> torch.Tensor:
        """The joint density without the terms of some sites, none of which is summed with others, ``[]``."""
        return self.total({name: term for name, term in self.terms.items() if name not in names})

    def rows(self, plate: Plate | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The joint density by element of a plate, ``[B]`` (``[]`` without one), and what is outside of it, ``[]``."""
        frames = [frame for name in self.terms for frame in self.message(name)["cond_indep_stack"]]
        if plate is not None and any(frame.name == plate.name and frame.size == 1 for frame in frames):
            elsewhere = self.outside(plate)  # sums over states do not tell a plate of one element from none
            return self.without(elsewhere).reshape(1), self.sum_of(elsewhere)
        symbol = None if plate is None else self._symbols.get(plate.name)
        rows, shared = torch.zeros(()), torch.zeros(())
        for plates, terms in self._contracted(self.terms).items():
            for term in terms:
                if symbol is None or symbol not in plates:
                    shared = shared + term.sum()
                    continue
                place = cast(Any, term)._pyro_dims.index(symbol)
                others = [dim for dim in range(term.ndim) if dim != place]
                rows = rows + (term.sum(others) if others else term)
        return rows, shared

    @cached_property
    def _symbols(self) -> Mapping[str, str]:
        self.trace.symbolize_dims()
        return self.trace.plate_to_symbol

    def _contracted(self, terms: Mapping[str, torch.Tensor]) -> Mapping[frozenset[str], list[torch.Tensor]]:
        """Terms with the dimensions of all states summed out, by the plates that are left.

        The sums follow the program's plates and independences (tensor variable elimination: Obermeyer et al., 2019,
        https://arxiv.org/abs/1902.03210), as Pyro's ``contract_tensor_tree`` carries them out.
        """
        scale = self._shared_scale(terms)
        alone = {} if scale == 1.0 else {name: term for name, term in terms.items() if not self._is_summed(term)}
        factors, sum_dims = self._factors({name: term for name, term in terms.items() if name not in alone}, scale)
        result: dict[frozenset[str], list[torch.Tensor]] = dict(contract_tensor_tree(factors, sum_dims))
        if scale != 1.0:
            result = {plates: [_scaled(part, scale) for part in parts] for plates, parts in result.items()}
            for plates, parts in self._factors(alone, 1.0)[0].items():
                result.setdefault(plates, []).extend(parts)
        return result

    def _is_summed(self, term: torch.Tensor) -> bool:
        """Whether a term has a dimension of states, which are left of all plates."""
        return term.ndim > self.structure.plate_nesting

    def _shared_scale(self, terms: Mapping[str, torch.Tensor]) -> float:
        r"""The number by which ``poutine.scale`` scales every term with states; 1 where they have none in common.

        A scale :math:`s` around latents that are summed out and all that they feed stands for :math:`s` copies of them:
        :math:`s \log \sum_z p(z, x)`, as in Pyro's ``TraceEnum_ELBO``, and not :math:`\log \sum_z p(z, x)^s`.
        """
        infer = ((self.message(name), term) for name, term in terms.items() if self._is_summed(term))
        scales = {msg["infer"].get(handlers.SCALE, msg["scale"]) for msg, _ in infer}
        shared = scales.pop() if len(scales) == 1 else 1.0
        return float(shared) if isinstance(shared, (int, float)) else 1.0

    def _factors(
        self, terms: Mapping[str, torch.Tensor], scale: float
    ) -> tuple[OrderedDict[frozenset[str], list[torch.Tensor]], set[str]]:
        """Terms by their plates, packed by the symbols of their dimensions, and the dimensions of states."""
        symbols = self._symbols
        factors: OrderedDict[frozenset[str], list[torch.Tensor]] = OrderedDict()
        sum_dims: set[str] = set()
        for name, term in terms.items():
            msg = self.message(name)
            frames = [frame for frame in msg["cond_indep_stack"] if frame.vectorized and frame.size > 1]
            plates = frozenset(symbols[frame.name] for frame in frames)
            term = term.to(torch.get_default_dtype())  # a program's own tensors may be coarser
            if scale != 1.0:
                term = term / msg["scale"]
            factor: Any = packed.pack(term, msg["infer"]["_dim_to_symbol"])
            sum_dims.update(frozenset(factor._pyro_dims) - plates)
            factors.setdefault(plates, []).append(factor)
        return factors, sum_dims


def _scaled(part: torch.Tensor, scale: float) -> torch.Tensor:
    """A packed term times a number."""
    scaled: Any = part * scale
    scaled._pyro_dims = cast(Any, part)._pyro_dims
    return cast(torch.Tensor, scaled)


def read(bound: Bound, structure: Structure, *messengers: Any, sum_out: bool = False) -> Reading:
    """Run a program once under handlers (the last one given is nearest to the program) and read its sites.

    Args:
        bound: the program with its data.
        structure: what it consists of; parameters have the values that are noted there.
        *messengers: handlers, which give latents their values.
        sum_out: whether discrete latents that no handler gives a value are summed out.

    Raises:
        ModelError: the run has other sites than the structure.
        UnsupportedModel: a latent that is to be summed out decides on a branch.
    """
    summed = sum_out and bool(structure.discrete)
    around = (EnumMessenger(-1 - structure.plate_nesting), _every_discrete()) if summed else ()
    try:
        trace = run(bound, *around, *messengers, parameters=structure.parameters)
    except ProgramError as error:
        if not summed or "Boolean value of Tensor" not in str(error):
            raise
        raise UnsupportedModel(f"{error}; {_NO_BRANCHES}") from error
    trace = prune_subsample_sites(trace)
    _require_same_sites(trace, structure)
    jacobians = [m.log_jacobian for m in messengers if isinstance(m, handlers.Unconstrained)]
    return Reading(structure, trace, {name: v for found in jacobians for name, v in found.items()}, summed)


def _every_discrete() -> handlers.MarkEnumerable:
    return handlers.MarkEnumerable(lambda msg: bool(msg["fn"].support.is_discrete))


def _require_same_sites(trace: poutine.Trace, structure: Structure) -> None:
    now = {name for name, msg in trace.nodes.items() if msg["type"] == "sample"}
    known = {site.name for site in structure.sites if site.role != "parameter"}
    if differ := sorted(now ^ known):
        name = differ[0]
        which = "this run reaches and the first did not" if name in now else "the first run reached and this did not"
        raise ModelError(
            problem(
                f"site {name!r}",
                found=f"a statement that {which}",
                expected="the same sites in every run, whatever the latents",
                fix="torch.where(condition, a, b) with both a and b drawn every time",
            )
        )
