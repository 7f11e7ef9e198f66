"""The rows of a generator: the plate that they stand in, its size, and new ones."""

from __future__ import annotations

import math

import torch

from phlogiston.engine.program.isolate import as_int, seed_sequence
from phlogiston.engine.program.plates import data_plate
from phlogiston.engine.program.sites import Plate, Site
from phlogiston.errors import UnsupportedModel, positive_int, problem
from phlogiston.model.model import Model


def depth(site: Site) -> int:
    """Dimensions of a site's value that plates may have: what follows them is one event."""
    return max((-plate.dim for plate in site.plates), default=0)


def axis(site: Site, plate: Plate) -> int:
    """Along which a site's value runs over the rows, whether or not the program said how large its events are."""
    return depth(site) + plate.dim


def resized(model: Model, plate: Plate, size: int) -> Model:
    """The program for so many rows: whole numbers among its inputs that are the plate's size become theirs.

    Raises:
        UnsupportedModel: none of them is.
    """
    if size == plate.size:
        return model
    counts = {n: size for n, v in model.inputs.items() if type(v) is int and v == plate.size}
    if not counts:
        raise UnsupportedModel(
            problem(
                f"plate {plate.name!r}",
                found=f"a size, {plate.size}, that is no input of program {model.name!r}, and {size} rows",
                expected="a whole number that says how many rows there are",
                fix=f'def {model.name}(n, ...): ... with pyro.plate("{plate.name}", n)',
            )
        )
    return model.with_inputs(**counts)


def generated(model: Model, count: int, seed: int | None) -> dict[str, torch.Tensor]:
    """New rows, latents and outputs alike: each site of the largest plate, ``[count, ...]``.

    Raises:
        UnsupportedModel: the program has no plate.
    """
    positive_int(num_elements=count)
    sites = [site for site in model.structure.of("latent", "observed", "deterministic") if site.plates]
    plate, bare = data_plate(sites), model.unobserved()
    if plate is None:
        raise UnsupportedModel(
            problem(
                f"program {model.name!r}",
                found="no plate",
                expected="one that holds the rows",
                fix="fitted.simulate(n)",
            )
        )
    try:
        whole, runs = resized(bare, plate, count), 1
    except UnsupportedModel:  # as many runs of its own rows as it takes
        whole, runs = bare, math.ceil(count / plate.size)
    drawn = whole.simulate(runs, seed=as_int(seed_sequence(seed)))
    own = [site for site in sites if any(p.name == plate.name for p in site.plates)]
    return {site.name: drawn[site.name].movedim(1 + axis(site, plate), 1).flatten(0, 1)[:count] for site in own}
