"""Refuse a posterior that is no distribution before any method looks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.errors import UnsupportedModel
from phlogiston.model.model import Model
from phlogiston.posterior.labels import Labels, component, numbered
from phlogiston.posterior.verdict import Finding
from phlogiston.stats.propriety import SLOWEST, improper_direction, names_of

Array = NDArray[Any]


def refuse_improper(model: Model, target: Target, seed: np.random.SeedSequence) -> None:
    """Refuse a posterior that neither prior nor data bound, as chains and guides would drift along it without end.

    Raises:
        UnsupportedModel: its density is level both ways, from three points.
    """
    if not any(site.improper for site in model.structure.continuous):
        return
    points = generator(spawn(seed, 1)[0]).standard_normal((3, target.dim))
    ray = None
    for point in points:
        if (ray := ray_of(target, point, flat=True)) is None:
            return
    raise UnsupportedModel(f"{improper(names_of(cast(np.ndarray, ray), coordinates(target, model.labels)))}")


def ray_of(target: Target, start: Array, *, flat: bool = False) -> Array | None:
    """A direction from a point ``[D]`` in which a density with flat priors is improper; see ``stats.propriety``."""
    most = 4 * (start.size + 1)  # rows of a call; one number for all, as each is traced anew

    def density(rows: Array) -> tuple[Array, Array]:
        padded = np.concatenate([rows, np.repeat(rows[-1:], most - len(rows), 0)])
        value, grad = target.value_and_grad(torch.from_numpy(padded).to(target.dtype))
        return value[: len(rows)].double().numpy(), grad[: len(rows)].double().numpy()

    places = [place for slot in target.slots if slot.site.improper for place in range(slot.start, slot.stop)]
    return improper_direction(start, density, places, flat=flat)


def coordinates(target: Target, labels: Labels) -> Callable[[int], str]:
    """Position in the unconstrained vector -> the component's name."""

    def label(place: int) -> str:
        slot = next(slot for slot in target.slots if slot.start <= place < slot.stop)
        same = slot.shape == slot.site.shape
        return component(slot.site.name, slot.shape, place - slot.start, labels if same else numbered)

    return label


def improper(names: Sequence[str]) -> Finding:
    """The finding that a posterior is improper along some components."""
    listing = " and ".join(names) + (" together" if len(names) > 1 else "")
    return Finding(
        f"the posterior is improper: its density does not fall along {listing}",
        f"give {names[0].partition('[')[0]} a prior that can be drawn from, such as dist.Normal(0.0, 10.0), or observe "
        "what depends on it",
        number=0.0,
        threshold=SLOWEST,
        site=names[0],
        meaning="Neither a flat prior nor the data bound it: there is no distribution to draw from, and chains wander "
        "off for ever. No setting helps.",
        severity="do not use",
    )
