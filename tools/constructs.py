"""Regenerate docs/constructs.md, the table of what the programs in tests/programs/ use, from these programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from programs import corpus  # noqa: E402
from programs.case import Case  # noqa: E402

import phlogiston as ph  # noqa: E402
from phlogiston.inference import registry  # noqa: E402

PAGE = ROOT / "docs" / "constructs.md"
HEAD = """# Constructs of Pyro, and what is known to work

`make constructs` writes this page from the {count} programs in `tests/programs/`. The density and its gradient of each
program are held to Pyro's own in float64, on the loop tier and on the graph tier where the program can be traced.

- Density: how many programs with the construct agree with Pyro, of how many; what fails today is named below the table.
- Tier: the tier on which the density of most of these programs runs; the number that have to be looped over.
- Methods: the methods that accept every one of these programs (some constructs appear beside others that a method
  refuses); "all" stands for {methods}.

| Construct | Density | Tier | Methods | Programs |
|---|---|---|---|---|
"""


def constructs() -> dict[str, list[Case]]:
    """Construct -> the programs that use it, in alphabetical order."""
    names = sorted({use for case in corpus.CASES.values() for use in case.uses}, key=str.lower)
    return {name: [case for case in corpus.CASES.values() if name in case.uses] for name in names}


def accepting(case: Case) -> frozenset[str]:
    """The methods whose needs a program meets."""
    if case.refused or "density" in case.wrong_today:
        return frozenset()
    model = ph.Model(case.program, *case.args)
    model = model.observe(missing=case.missing, **case.observed) if case.observed else model
    return frozenset(
        name for name in registry.METHODS if registry.method_class(name).needs.unmet(model.structure) is None
    )


def row(name: str, cases: list[Case], methods: dict[str, frozenset[str]]) -> str:
    """One line of the table."""
    right = [case for case in cases if not case.refused and not {"density", "gradient"} & set(case.wrong_today)]
    looped = sum(bool(case.loop_today) for case in right)
    tier = "none" if not right else f"loop ({looped})" if 2 * looped > len(right) else "graph"
    tier += f", loop ({looped})" if looped and tier == "graph" else ""
    common = frozenset.intersection(*(methods[case.name] for case in right)) if right else frozenset()
    shown = _shown(common, methods)
    programs = ", ".join(f"`{case.name}`" for case in cases[:3]) + (" ..." if len(cases) > 3 else "")
    return f"| {name} | {len(right)} of {len(cases)} | {tier} | {shown} | {programs} |"


def _shown(common: frozenset[str], methods: dict[str, frozenset[str]]) -> str:
    if common == frozenset.union(*methods.values()) - {"exact"}:
        return "all"
    return ", ".join(name for name in registry.METHODS if name in common) or "none"


def notes() -> Iterator[str]:
    """What is refused, looped over or wrong today, program by program."""
    for case in corpus.CASES.values():
        if case.refused:
            yield f"- `{case.name}` has no density in unconstrained coordinates and is refused ({case.refused})."
        if case.loop_today:
            yield f"- `{case.name}` is looped over ({case.loop_today})."
        for test, reason in case.wrong_today.items():
            yield f"- `{case.name}`, {test}: {reason}."


def page() -> str:
    """The page."""
    methods = {name: accepting(case) for name, case in corpus.CASES.items()}
    every = ", ".join(name for name in registry.METHODS if name != "exact")
    rows = [row(name, cases, methods) for name, cases in constructs().items()]
    head = HEAD.format(count=len(corpus.CASES), methods=every)
    return head + "\n".join(rows) + "\n\n## Exceptions\n\n" + "\n".join(notes()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
