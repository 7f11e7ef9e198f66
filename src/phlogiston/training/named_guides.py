"""From a guide's name to the guide, fitted to one model: where it starts and how it is shaped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from phlogiston.engine.program.readings import Slot
from phlogiston.engine.program.sites import Site
from phlogiston.errors import SettingError, problem
from phlogiston.training import guides
from phlogiston.training.flows import flow
from phlogiston.training.guides import Guide

GUIDES: tuple[str, ...] = ("delta", "normal", "multivariate_normal", "low_rank", "structured", "laplace", "flow")
_FIRST_SCALE = 0.1


def named_guide(name: str, slots: Sequence[Slot], loc: torch.Tensor, rank: int) -> Guide:
    """The guide of that name for latents laid out like this, around a point ``[D]``."""
    scale = torch.full_like(loc, _FIRST_SCALE)
    if name == "delta":
        return guides.delta(loc)
    if name == "normal":
        return guides.normal(loc, scale)
    if name == "multivariate_normal":
        return guides.multivariate_normal(loc, torch.diag(scale))
    if name == "low_rank":
        return guides.low_rank(loc, scale, rank)
    if name == "flow":
        return flow(loc, torch.ones_like(loc), 0)
    if name == "laplace":
        raise SettingError(
            problem("guide", found="'laplace' with minibatches or in training", expected="'multivariate_normal' there")
        )
    order, free = structure_of(slots)
    return guides.triangular("structured", loc, torch.diag(scale), order, free)


def structure_of(slots: Sequence[Slot]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which coordinates may depend on which: elements of a plate not on each other, all on what is outside it.

    Returns:
        the order, coordinates in fewer plates first ``[D]``, and a mask of the ordered coordinates ``[D, D]``.
    """
    labels = [label for slot in slots for label in _elements(slot.site, slot.shape)]
    order = sorted(range(len(labels)), key=lambda i: (len(labels[i]), i))
    ordered = [labels[i] for i in order]
    free = [[all(own.get(name, at) == at for name, at in other.items()) for other in ordered] for own in ordered]
    return torch.tensor(order), torch.tensor(free)


def _elements(site: Site, shape: tuple[int, ...]) -> list[dict[str, int]]:
    """For each number of a site: plate -> the index in it."""
    if site.missing is not None:
        return [{f"missing {site.name}": i} for i in range(site.missing.count)]
    event = len(shape) - len(site.batch_shape)
    found = []
    for index in np.ndindex(*shape):
        batch = index[: len(shape) - event]
        found.append({plate.name: batch[plate.dim] for plate in site.plates if -plate.dim <= len(batch)})
    return found
