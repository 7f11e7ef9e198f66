"""``Case``: a small Pyro program with its inputs, its data, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

# How the reference density is computed: the trace alone, Pyro's TraceEnum_ELBO, or a sum over every assignment.
Oracle = Literal["trace", "enum", "brute"]
# What a test of one program looks at; the keys of ``Case.wrong_today``.
TESTS = ("density", "gradient", "score", "tier", "roles", "answer")


@dataclass(frozen=True)
class Answer:
    """What one method must find.

    Args:
        method: the name of the method.
        log_evidence: log p(observed); None where one or two unconstrained numbers are to be integrated by quadrature.
        mean: site -> posterior mean.
        settings: of the method.
        tolerance: of the log evidence, beside five of its standard errors.
    """

    method: str
    log_evidence: float | None = None
    mean: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class Case:
    """One program of the corpus.

    Args:
        program: a Pyro program.
        uses: the constructs that its density depends on.
        args: its inputs.
        observed: values given to ``Model.observe``.
        missing: how NaN in them are taken.
        oracle: how the reference density is computed.
        reference: another program with the density that is meant, where the program as it stands does not have one
            (a subsampled plate draws a new minibatch in every run); it takes the same inputs.
        supports: site -> its support, where the distribution reports another one.
        nesting: dimensions that plates take, for ``TraceEnum_ELBO``.
        roles: site -> its role, where that is not self-evident.
        answer: what a method must find.
        compiled: whether machine code of the density is tried in every run of the tests.
        loop_today: why the program is on the loop tier; "" where it is traced.
        refused: a part of the message by which the density is rightly refused; "" where there is one.
        wrong_today: test -> the issue by which it fails.
    """

    program: Callable[..., Any]
    uses: tuple[str, ...]
    args: tuple[Any, ...] = ()
    observed: Mapping[str, Any] = field(default_factory=dict)
    missing: Literal["refuse", "latent"] = "refuse"
    oracle: Oracle = "trace"
    reference: Callable[..., Any] | None = None
    supports: Mapping[str, Any] = field(default_factory=dict)
    nesting: int | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    answer: Answer | None = None
    compiled: bool = False
    loop_today: str = ""
    refused: str = ""
    wrong_today: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        if unknown := set(self.wrong_today) - set(TESTS):
            raise ValueError(f"case {self.name!r}: found tests {sorted(unknown)}; expected some of {TESTS}")


class Table:
    """A file's programs, which register themselves by the decorator ``table.add("construct", ...)``."""

    def __init__(self) -> None:
        self.cases: dict[str, Case] = {}

    def add(self, *uses: str, name: str = "", **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add the decorated program as a case; settings are fields of ``Case``."""

        def register(program: Callable[..., Any]) -> Callable[..., Any]:
            known = name or getattr(program, "__name__", type(program).__name__)
            if known in self.cases:
                raise ValueError(f"found two programs called {known!r}; expected one")
            self.cases[known] = Case(program=program, uses=uses, name=known, **settings)
            return program

        return register


def t(*values: Any) -> torch.Tensor:
    """Numbers as a float64 vector (or, given nested lists, a matrix)."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    """Fixed standard normal numbers, as data."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
