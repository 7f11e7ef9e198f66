"""The plan of a Gibbs sweep: which latents move together, which of them in parallel, and by what conditional.

The plan does not rely on how a program is written. Which terms of the joint density a latent enters is found by
moving it; latents that share no term are independent given the rest and move in parallel; that a conditional has a
closed form is checked at points that did not determine it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from phlogiston.engine.densities.joint import FullDensity, Part
from phlogiston.errors import SettingError, UnsupportedModel, did_you_mean, problem
from phlogiston.inference.mcmc.conjugacy import Family, families_of, is_elementwise, is_real, solved
from phlogiston.inference.rng import streams

Array = NDArray[Any]
Kind = Literal["enumerate", "closed form", "walk", "integer walk", "state walk"]
PROBES = 12
_LARGEST_TABLE = 1024
_UNTOUCHED = 1e-12  # relative: less than rounding makes of a sum
_TOLERANCE = 1e-8  # of a closed form, relative to the densities that are compared


@dataclass(frozen=True)
class Move:
    """Groups of latents that move in parallel, each given everything but itself.

    Args:
        kind: by what conditional.
        sites: whose latents they are.
        coordinates: ``[E, d]``, a row for each of the groups.
        owner: ``[F]``: to which of the groups a term of the density belongs; E for those that none enters.
        states: ``[S, d]``, the states that are enumerated.
        family: the closed form.
    """

    kind: Kind
    sites: tuple[str, ...]
    coordinates: Array
    owner: Array
    states: Array | None = None
    family: Family | None = None

    def local(self, terms: Array) -> Array:
        """``terms [..., F]`` -> the part of the log density that each group enters, ``[..., E]``."""
        return _summed(terms, self.owner, len(self.coordinates))


def _summed(terms: Array, owner: Array, groups: int) -> Array:
    if groups == 1:
        return np.asarray(terms[..., owner == 0].sum(-1, keepdims=True))
    order = np.argsort(owner, kind="stable")
    order = order[: int((owner < groups).sum())]
    owners = owner[order]
    starts = np.searchsorted(owners, np.arange(groups))
    present = np.flatnonzero(np.diff(np.append(starts, len(owners))))
    sums = np.zeros((*terms.shape[:-1], groups))
    if len(present):
        sums[..., present] = np.add.reduceat(terms[..., order], starts[present], -1)
    return sums


@dataclass(frozen=True)
class Candidates:
    """Groups of one kind, not yet sorted into those that may move in parallel."""

    kind: Kind
    sites: tuple[str, ...]
    coordinates: Array
    states: Array | None = None
    support: Any = None


def candidates_of(full: FullDensity, blocks: Sequence[Sequence[str]] | None) -> list[Candidates]:
    """Groups of latents that move at once: the blocks given, or every element of every site on its own.

    Raises:
        SettingError: a block names an unknown site, a site is in no block or in two, or a block cannot be moved.
    """
    parts = {part.site.name: part for part in full.parts}
    chosen = [[name] for name in parts] if blocks is None else _checked([list(block) for block in blocks], parts)
    candidates: list[Candidates] = []
    for block in chosen:
        candidates += _alone(full, parts[block[0]]) if len(block) == 1 else [_together(full, [parts[n] for n in block])]
    return candidates if blocks is not None else _merged(candidates)


def walks_of(full: FullDensity) -> list[Candidates]:
    """Random walks only: all continuous latents at once, discrete ones each on its own."""
    continuous = [part for part in full.parts if not part.site.discrete]
    rows = [part.coordinates.reshape(-1) for part in continuous]
    walks = [Candidates("walk", tuple(p.site.name for p in continuous), np.concatenate(rows)[None])] if rows else []
    discrete = [item for part in full.parts if part.site.discrete for item in _alone(full, part)]
    return walks + [replace(item, kind="state walk" if item.kind == "enumerate" else item.kind) for item in discrete]


def _checked(blocks: list[list[str]], parts: dict[str, Part]) -> list[list[str]]:
    named = [name for block in blocks for name in block]
    for name in named:
        if name not in parts:
            raise SettingError(f"blocks: found site {name!r}; {did_you_mean(name, parts)}")
        if named.count(name) > 1:
            raise SettingError(problem("blocks", found=f"site {name!r} more than once", expected="every latent once"))
    for name in parts:
        if name not in named:
            fix = f"blocks={[*blocks, [name]]!r}"
            raise SettingError(
                problem("blocks", found=f"no block with site {name!r}", expected="every latent", fix=fix)
            )
    return [block for block in blocks if block]


def _alone(full: FullDensity, part: Part) -> list[Candidates]:
    site, coordinates, names = part.site, part.coordinates, (part.site.name,)
    if not coordinates.size:
        return []
    if site.enumerable:
        return [Candidates("enumerate", names, coordinates, full.states[site.name])]
    if site.discrete:
        if coordinates.shape[1] > 1 and "Multinomial" in site.distribution:
            raise UnsupportedModel(
                problem(f"site {site.name!r}", found="a latent Multinomial", expected="counts that move one by one")
            )
        return [Candidates("integer walk", names, coordinates.reshape(-1, 1))]
    if is_elementwise(site.support) and not is_real(site.support):  # numbers of an event that need not move together
        coordinates = coordinates.reshape(-1, 1)
    return [Candidates("walk", names, coordinates, support=site.support)]


def _together(full: FullDensity, parts: list[Part]) -> Candidates:
    names = tuple(part.site.name for part in parts)
    coordinates = np.concatenate([part.coordinates.reshape(-1) for part in parts])[None]
    where = f"blocks, {list(names)}"
    if all(part.site.enumerable for part in parts):
        events = [full.states[part.site.name] for part in parts for _ in part.coordinates]
        size = math.prod(len(states) for states in events)
        if size > _LARGEST_TABLE:
            found, expected = f"{size:.3g} joint states", f"at most {_LARGEST_TABLE}"
            raise SettingError(problem(where, found=found, expected=expected, fix="blocks of fewer discrete sites"))
        table = np.array([np.concatenate(states) for states in itertools.product(*events)])
        return Candidates("enumerate", names, coordinates, table)
    if any(part.site.discrete for part in parts):
        raise SettingError(
            problem(where, found="a discrete latent among others", expected="all continuous, or all enumerable")
        )
    real = all(is_real(part.site.support) for part in parts)
    return Candidates("walk", names, coordinates, support=parts[0].site.support if real else None)


def _merged(candidates: list[Candidates]) -> list[Candidates]:
    """Join enumerable sites with the same states, so that spins written one by one can move in parallel, too."""
    merged: list[Candidates] = []
    for item in candidates:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.states is not None
            and item.states is not None
            and np.array_equal(last.states, item.states)
        ):
            joined = np.concatenate([last.coordinates, item.coordinates])
            merged[-1] = replace(last, sites=last.sites + item.sites, coordinates=joined)
        else:
            merged.append(item)
    return merged


@dataclass(frozen=True)
class Detector:
    """Examines a density by evaluating it at and around ``probes [P, W]``, which alone determine the results."""

    full: FullDensity
    probes: Array

    def moves(self, candidates: Sequence[Candidates], *, in_parallel: bool) -> list[Move]:
        """The moves of a sweep, in order."""
        base, moves = self.full.terms(self.probes), []
        for item in candidates:
            if in_parallel:
                touched = self.touched(item, base)
                colours = _coloured(touched)
            else:
                touched = np.ones((len(item.coordinates), base.shape[1]), bool)
                colours = np.arange(len(item.coordinates))
            for colour in range(int(colours.max(initial=-1)) + 1):
                rows = np.flatnonzero(colours == colour)
                owner = np.full(base.shape[1], len(rows))
                for i, row in enumerate(rows):
                    owner[touched[row]] = i
                moves += self._move(item, item.coordinates[rows], owner)
        return moves

    def touched(self, item: Candidates, base: Array) -> Array:
        """Which terms ``[G, F]`` change as a group moves."""
        rng, changes = np.random.default_rng(0), []
        # Every probe is moved, by steps of two sizes, because at a single point a term may happen not to change, as
        # where a table or a clamped function is flat.
        scale = np.where(np.isfinite(base), np.abs(base), 0.0) + 1.0
        for row in item.coordinates:
            moved = self.probes.copy()
            moved[:, row] = _perturbed(item, moved[:, row], rng)
            with np.errstate(invalid="ignore"):
                terms = self.full.terms(moved)
                same = (terms == base) | (np.isnan(terms) & np.isnan(base))
                changes.append(~(same | (np.abs(terms - base) <= _UNTOUCHED * scale)).all(0))
        return np.array(changes)

    def _move(self, item: Candidates, coordinates: Array, owner: Array) -> list[Move]:
        move = Move(item.kind, item.sites, coordinates, owner, item.states)
        if item.kind != "walk" or item.support is None:
            return [move]
        with np.errstate(all="ignore"):
            for family in families_of(item.support, coordinates.shape[1]):
                closed = replace(move, kind="closed form", family=family)
                if self._holds(closed):
                    return [closed]
        return [move]

    def _holds(self, move: Move) -> bool:
        """Whether the density has the closed form, at draws from it and elsewhere."""
        # The coefficients were solved for at nodes, where the form fits whatever the density is. So the two are
        # compared at other points: at a draw, where the mass is, and at points that lie twice as far apart.
        centre, width = self.located(move, self.probes)
        words = streams(np.random.SeedSequence(2).spawn(PROBES))
        eta, drawn = drawn_in_closed_form(self.full, move, self.probes, centre, width, words)
        if not np.isfinite(drawn).all():
            return False
        elsewhere = centre + 2.0 * width * np.random.default_rng(3).standard_normal(drawn.shape)
        old = self._compared(move, eta, centre, width, self.probes[:, move.coordinates])
        for point in (drawn, elsewhere):
            new = self._compared(move, eta, centre, width, point)
            size = 1.0 + np.abs(old[0]) + np.abs(new[0])
            gap = np.abs((new[0] - new[1]) - (old[0] - old[1]))
            if not (gap <= _TOLERANCE * size).all():
                return False
        return True

    def _compared(self, move: Move, eta: Array, centre: Array, width: Array, point: Array) -> tuple[Array, Array]:
        w = self.probes.copy()
        w[:, move.coordinates] = point
        assert move.family is not None
        return (
            move.local(without_jacobian(self.full, move, self.full.terms(w))),
            np.einsum("nek,nek->ne", eta, move.family.phi(point, centre, width)),
        )

    def located(self, move: Move, points: Array) -> tuple[Array, Array]:
        """Centre and width ``[E, d]`` of the conditionals at some points, so that nodes lie where the mass is."""
        centre, width = np.zeros(move.coordinates.shape), np.ones(move.coordinates.shape)
        for i in range(3):
            words = streams(np.random.SeedSequence((1, i)).spawn(len(points)))
            _, drawn = drawn_in_closed_form(self.full, move, points, centre, width, words)
            if not np.isfinite(drawn).all():
                break
            centre, width = drawn.mean(0), np.clip(drawn.std(0), 1e-6, 1e3)
        return centre, width


def _perturbed(item: Candidates, values: Array, rng: np.random.Generator) -> Array:
    """Values ``[P, d]`` that differ from those given."""
    if item.states is not None:
        now = (np.abs(values[:, None] - item.states).sum(-1)).argmin(1)
        by = 1 + rng.integers(max(1, len(item.states) - 1), size=len(now))
        return np.asarray(item.states[(now + by) % len(item.states)])
    if item.kind == "integer walk":
        return values + rng.integers(1, 3, size=values.shape)
    scale = np.where(np.arange(len(values)) % 2, 1.0, 0.1)[:, None]
    return np.asarray(values + rng.standard_normal(values.shape) * scale)


def _coloured(touched: Array) -> Array:
    """A colour for each group, such that groups of one colour share no term (greedily; few colours, not the fewest)."""
    # Groups that share no term are independent given the rest, so all of one colour can be drawn at once and the sweep
    # is still a Gibbs sweep (Gonzalez, Low, Gretton and Guestrin, 2011).
    colours, used = np.zeros(len(touched), int), np.zeros((0, touched.shape[1]), bool)
    for i, terms in enumerate(touched):
        free = np.flatnonzero(~(used[:, terms].any(1)))
        if not len(free):
            used = np.concatenate([used, np.zeros((1, touched.shape[1]), bool)])
        colours[i] = free[0] if len(free) else len(used) - 1
        used[colours[i], terms] = True
    return colours


def without_jacobian(full: FullDensity, move: Move, terms: Array) -> Array:
    """The terms without the log Jacobians of the moving sites, whose closed forms are on the constrained scale."""
    own = np.array([name.is_jacobian and name.site in move.sites for name in full.names])
    return np.where(own, 0.0, terms) if own.any() else terms


def drawn_in_closed_form(
    full: FullDensity, move: Move, w: Array, centre: Array, width: Array, words: Array
) -> tuple[Array, Array]:
    """The closed forms' eta ``[n, E, K]`` given the rest of ``w [n, W]``, and a draw ``[n, E, d]``."""
    assert move.family is not None
    # The log of the conditional is eta . phi(x) and a constant, linear in eta, so that the joint density at a few nodes
    # gives eta, whichever prior and likelihood it comes from.
    nodes = centre + width * move.family.nodes[:, None]  # [N, E, d]
    rows = np.repeat(w[:, None], len(nodes), 1)
    rows[:, :, move.coordinates] = nodes
    terms = full.terms(rows.reshape(-1, w.shape[1])).reshape(len(w), len(nodes), -1)
    eta = solved(move.family, move.local(without_jacobian(full, move, terms)), centre, width)
    return eta, move.family.draw(eta, centre, width, words)
