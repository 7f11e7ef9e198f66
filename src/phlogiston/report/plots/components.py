"""Which components of a posterior a picture shows, and what it calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.errors import PhlogistonError, UnknownName, did_you_mean
from phlogiston.posterior.posterior import Posterior
from phlogiston.stats.convergence import SCREENED, badness, convergence, screen

Array = NDArray[np.float64]

LIMIT = 12
_LONGEST_LABEL = 28


class DoesNotApply(PhlogistonError, ValueError):
    """This picture does not exist for this posterior; the message says which one does."""


@dataclass(frozen=True, eq=False)
class Component:
    """One number of a site: its draws ``[chain, draw]``, and for chains its R-hat and ESS (else NaN)."""

    site: str
    index: tuple[int, ...]
    label: str
    values: Array
    rhat: float = np.nan
    ess: float = np.nan

    @cached_property
    def whole(self) -> bool:
        """Whether its values are whole numbers, as those of discrete sites are."""
        return is_whole(self.values)

    @property
    def verdict(self) -> str:
        """R-hat and ESS as text, as far as they are known."""
        parts = [f"R-hat {self.rhat:.3f}"] if np.isfinite(self.rhat) else []
        return " · ".join([*parts, f"ESS {self.ess:,.0f}"] if np.isfinite(self.ess) else parts)


@dataclass(frozen=True)
class Selection:
    """The components to show, in program order, and what to say of those left out."""

    components: tuple[Component, ...]
    note: str = ""


def is_whole(values: Array) -> bool:
    """Whether all values are whole numbers."""
    return bool(np.isfinite(values).all() and (values == np.round(values)).all())


def choose(posterior: Posterior, sites: Sequence[str] | str | None, limit: int = LIMIT) -> Selection:
    """At most ``limit`` components of the sites: of chains those that have converged worst, else the first.

    Args:
        posterior: whose.
        sites: names of sites or labels of components; None for all.
        limit: how many at most.

    Raises:
        UnknownName: there is no such site or component.
    """
    named = _named(posterior, sites)
    chosen, note = named, ""
    if len(named) > limit:
        judged = posterior.is_chain and posterior.num_draws >= 4
        chosen = _worst(posterior, named, limit) if judged else named[:limit]
        which = f"the {limit} of {len(named):,} components with the worst R-hat and ESS"
        note = which if judged else f"the first {limit} of {len(named):,} components"
    return Selection(tuple(_component(posterior, site, index) for site, index in chosen), note)


def _component(posterior: Posterior, site: str, index: tuple[int, ...]) -> Component:
    values = _values(posterior, site, index)
    rhat, ess = convergence(values[..., None]) if posterior.is_chain else (np.array([np.nan]), np.array([np.nan]))
    return Component(site, index, label(posterior, site, index), values, float(rhat[0]), float(ess[0]))


def _values(posterior: Posterior, site: str, index: tuple[int, ...]) -> Array:
    draws = posterior.draws[site].detach()
    for place in index:
        draws = draws.select(2, place)
    return draws.cpu().double().numpy()


def label(posterior: Posterior, site: str, index: tuple[int, ...]) -> str:
    """``theta[Choate]`` where the model has labels, else ``theta[0]``."""
    names = [str(labels[i]) for labels, i in zip(labels_of(posterior, site), index, strict=True)]
    position = f"[{', '.join(names)}]" if names else ""
    room = _LONGEST_LABEL - min(len(position), _LONGEST_LABEL // 2)
    text = f"{site if len(site) <= room else site[: room - 1] + '…'}{position}"
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 2] + "…]"


def labels_of(posterior: Posterior, site: str) -> list[Sequence[Any]]:
    """A label for every position of every dimension of a site."""
    if posterior.model is None:
        return [range(n) for n in posterior.draws[site].shape[2:]]
    known = posterior.model.sites.get(site)
    shape = tuple(posterior.draws[site].shape[2:]) if site in posterior.draws else known.shape if known else ()
    return posterior.model.labels(site, shape)


def _named(posterior: Posterior, sites: Sequence[str] | str | None) -> list[tuple[str, tuple[int, ...]]]:
    wanted = posterior.draws if sites is None else [sites] if isinstance(sites, str) else sites
    found: dict[tuple[str, tuple[int, ...]], None] = {}
    for name in wanted:
        site = name if name in posterior.draws else name.split("[")[0]
        if site not in posterior.draws:
            raise UnknownName(f"plot: found no site {name!r}; {did_you_mean(name, posterior.draws)}")
        components = [(site, index) for index in np.ndindex(*posterior.draws[site].shape[2:])]
        if site != name:
            labels = {f"{site}[{', '.join(map(str, index))}]": (site, index) for _, index in components}
            labels |= {label(posterior, site, index): (site, index) for _, index in components}
            if name not in labels:
                raise UnknownName(f"plot: site {site!r} has no component {name!r}; {_some(name, list(labels))}")
            components = [labels[name]]
        else:  # of a site that was observed in part, the entries that were not
            data = {} if posterior.model is None else posterior.model.entries_observed
            components = [each for each in components if site not in data or not data[site][each[1]]]
        found |= dict.fromkeys(components)
    return list(found)


def _some(name: str, labels: list[str]) -> str:
    return did_you_mean(name, labels) if len(labels) <= LIMIT else f"they run from {labels[0]!r} to {labels[-1]!r}"


def _worst(
    posterior: Posterior, named: list[tuple[str, tuple[int, ...]]], limit: int
) -> list[tuple[str, tuple[int, ...]]]:
    """The ``limit`` components furthest beyond the limits of R-hat and ESS, in the order given."""
    if len(named) > SCREENED:
        scores = _screen(posterior, named)
        named = [named[i] for i in np.sort(np.argsort(-scores, kind="stable")[:SCREENED])]
    values = np.stack([_values(posterior, site, index) for site, index in named], axis=-1)
    scores = badness(values, *convergence(values))
    return [named[i] for i in np.sort(np.argsort(-scores, kind="stable")[:limit])]


def _screen(posterior: Posterior, named: list[tuple[str, tuple[int, ...]]]) -> Array:
    """A cheap version of ``_badness`` for thousands of components."""
    scores: dict[str, Array] = {}
    for site in dict.fromkeys(site for site, _ in named):
        draws = posterior.draws[site].detach().cpu()
        scores[site] = screen(draws.reshape(*draws.shape[:2], -1).numpy()).reshape(draws.shape[2:])
    return np.array([scores[site][index] for site, index in named])
