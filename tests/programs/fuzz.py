"""Random Pyro programs as source text: ``generate(seed)`` is the same program for ever, and can be pasted."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from programs.fuzz_writer import Writer


@dataclass
class Program:
    """A random program with its data.

    Args:
        seed: that it was made from.
        source: defines ``program()`` and ``observed``.
        features: what is in it.
        nesting: dimensions of its plates.
        rows: a plate that minibatches can be taken from; "" where there is none.
    """

    seed: int
    source: str
    features: frozenset[str]
    nesting: int
    rows: str
    namespace: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.namespace = {"torch": torch, "pyro": pyro, "dist": dist, "poutine": poutine, "nan": float("nan")}
        exec(compile(self.source, f"<program {self.seed}>", "exec"), self.namespace)

    @property
    def program(self) -> Callable[[], None]:
        """The program."""
        return self.namespace["program"]

    @property
    def whole(self) -> Callable[[], None]:
        """The same program with plates that are not subsampled."""
        return self.namespace.get("whole", self.program)

    @property
    def observed(self) -> dict[str, torch.Tensor]:
        """The data that are not written in the program."""
        return self.namespace["observed"]


def generate(seed: int, *, left_out: frozenset[str] = frozenset(), forced: str = "") -> Program:
    """The random program of a seed, without some features, or with one wherever it fits."""
    writer = Writer(seed, left_out, forced)
    source = writer.compose()
    return Program(seed, textwrap.dedent(source), frozenset(writer.features), writer.nesting, writer.rows)
