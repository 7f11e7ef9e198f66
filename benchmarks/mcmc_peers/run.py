"""What a peer hands back, and what a peer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mcmc_peers.targets import Array, Data


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a sampler.

    Args:
        draws: site -> ``[chain, draw, ...]``, the target's parameters among them.
        divergences: of the kept draws; None where the peer does not tell.
        gradients: gradient evaluations behind the kept draws, of all chains; None where the peer does not tell.
        seconds: of the run, where the peer's own clock counts; else the wall clock does.
        note: what the table should say beside the run.
    """

    draws: dict[str, Array]
    divergences: int | None = None
    gradients: int | None = None
    seconds: float | None = None
    note: str = ""


Sampler = Callable[[int], Run]  # of a seed


class Peer(Protocol):
    """A peer's module. Importing it imports the peer; that time is measured."""

    def prepare(self, target: str, setting: str, data: Data) -> Sampler:
        """Define the model and return what samples it. The first call may compile, later ones should not."""
        ...
