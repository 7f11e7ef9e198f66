"""Whether a posterior with flat priors has a finite integral."""

from __future__ import annotations

from collections.abc import Callable

from phlogiston.inference.improper import improper
from phlogiston.posterior.verdict import Check, failed
from phlogiston.stats.propriety import Array, names_of


def check_proper(ray: Array | None, label: Callable[[int], str]) -> Check:
    """The check that a direction found, or none, makes."""
    if ray is None:
        return Check("a finite integral", "the density falls in every direction that has a flat prior")
    return failed("a finite integral", improper(names_of(ray, label)))
