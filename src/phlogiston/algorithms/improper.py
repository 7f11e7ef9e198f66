"""Refuse a posterior that is no distribution before any method looks for it."""

from __future__ import annotations

from typing import cast

import numpy as np

from phlogiston.diagnostics import improper, names_of
from phlogiston.engine import Target
from phlogiston.engine.isolate import generator, spawn
from phlogiston.errors import UnsupportedModel
from phlogiston.model import Model
from phlogiston.trust import coordinates, ray_of


def refuse_improper(model: Model, target: Target, seed: np.random.SeedSequence) -> None:
    """Chains and guides would wander off for ever where neither prior nor data bound a latent.

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
