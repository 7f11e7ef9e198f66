"""The page of several methods on one model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from phlogiston.diagnostics.compare.agree import Agreement, Moment
from phlogiston.posterior.verdict import Check, Diagnosis, Finding, Severity, failed
from phlogiston.report.pages.page import Block, Section, Table, Text, page_of, picture, write
from phlogiston.report.pages.posterior_page import model_section
from phlogiston.report.pages.reproducibility import reproducibility

Pair = tuple[str, str]
_ROWS = 24


def write_agreement(found: Agreement, path: str | Path, *, command: str = "") -> Path:
    """Judge, draw and write; see ``Agreement.report``."""
    first = next(iter(found.posteriors.values()))
    names = list(found.posteriors)
    program = first.model.name if first.model is not None else "model"
    page = page_of(
        _report(found),
        title=f"{program} by {len(names)} methods",
        subtitle=f"{found.verdict[:1].upper()}{found.verdict[1:]}.",
        sections=[section for section in _sections(found, command) if section.blocks],
    )
    return write(page, path)


def _report(found: Agreement) -> Diagnosis:
    """A check for each pair, and the gravest finding of each method's own checks."""
    pairs = [_pair(found, *pair) for pair in found.z]
    return Diagnosis((*pairs, *(_own(name, report) for name, report in found.reports.items())))


def _pair(found: Agreement, one: str, other: str) -> Check:
    pair, name = (one, other), f"{one} against {other}"
    told = found.c2st[pair]
    numbers = (
        f"largest |z| {found.z[pair]:.2f} ({found.where[pair]}), limit {found.limit:.2f}; "
        f"a classifier is right about {float(told.accuracy.value):.0%} of draws, p = {told.p_value:.2g}"
    )
    if not found.differ(one, other):
        return Check(name, numbers)
    doubted = found.outlier if found.outlier in pair else ""
    action = f"do not use {doubted}: {found.why}" if doubted else "look at the checks of each, and ask a third method"
    meaning = f"They differ by {found.effect[pair]:.2g} posterior standard deviations in the {found.where[pair]}."
    grave: Severity = "caution" if doubted else "do not use"
    finding = Finding(
        f"{name}: {numbers}", action, number=found.z[pair], threshold=found.limit, meaning=meaning, severity=grave
    )
    return failed(name, finding)


def _own(name: str, report: Diagnosis) -> Check:
    if not report.findings:
        return Check(f"checks of {name}", report.headline)
    worst = report.findings[0]
    finding = Finding(
        f"{name}: {worst.message}", worst.action, worst.category, meaning=worst.meaning, severity=worst.severity
    )
    return failed(f"checks of {name}", finding)


def _sections(found: Agreement, command: str) -> Iterator[Section]:
    model = next(iter(found.posteriors.values())).model
    if model is not None:
        yield model_section(model)
    yield Section("Methods", [*_methods(found)])
    yield Section("Side by side", [picture(found.plot(), "Marks of one row that lie on each other agree.")])
    yield Section("Pairs of methods", [_pairs(found)])
    yield Section("Means and spreads", [_moments(found)])
    for name, post in found.posteriors.items():
        facts = reproducibility(post, verb="infer", command=command)
        yield Section(f"Reproducibility of {name}", facts.blocks)


def _methods(found: Agreement) -> Iterator[Block]:
    table = found.summary()
    rows = [
        [str(name), *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row)]
        for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]
    yield Table(("method", *map(str, table.columns)), rows, numbers=False)
    yield Text(
        "|z|, C2ST and MMD p are those of the method from which this one differs most. C2ST is 0.5 where a classifier "
        "sees no difference."
    )
    for name, reason in found.refused.items():
        yield Text(f"{name} could not treat the model: {reason}")


def _pairs(found: Agreement) -> Table:
    rows = [
        [
            f"{one}, {other}",
            "differ" if found.differ(one, other) else "agree",
            f"{found.z[one, other]:.2f}",
            found.where[one, other],
            f"{found.effect[one, other]:.3f}",
            f"{float(found.c2st[one, other].accuracy.value):.3f}",
            f"{found.mmd[one, other].p_value:.3f}",
        ]
        for one, other in sorted(found.z, key=lambda pair: -found.z[pair])
    ]
    head = ("pair", "", f"|z| (limit {found.limit:.2f})", "at", "in sds", "C2ST", "MMD p")
    return Table(head, rows[:_ROWS], rows[_ROWS:], numbers=False)


def _moments(found: Agreement) -> Table:
    names = list(found.posteriors)

    def apart(moment: Moment) -> float:
        means = [float(moment.mean[name].value) for name in names]
        scale = max(float(np.median([float(moment.sd[name].value) for name in names])), 1e-300)
        return -(max(means) - min(means)) / scale

    rows = [
        [moment.label, *(f"{moment.mean[name]} (sd {float(moment.sd[name].value):.3g})" for name in names)]
        for moment in sorted(found.moments, key=apart)
    ]
    return Table(("", *names), rows[:_ROWS], rows[_ROWS:])
