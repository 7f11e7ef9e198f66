"""The page of generators that were judged side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from phlogiston.posterior.verdict import Diagnosis
from phlogiston.report.pages.page import Section, Table, Text, page_of, picture, write

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MEANING = (
    "C2ST: accuracy of a classifier between draws and data, 0.5 where nothing tells them apart. KID and Fréchet: "
    "distances in the feature space, 0 where distributions agree. Precision and density: draws that look like data; "
    "recall and coverage: data that there are draws of. Sharpness: right where it is that of the data. Log lik.: nats "
    "a datum under the same measurement for all. A row of other data shows what a perfect generator would score."
)


def write_generators(
    checks: Diagnosis, summary: pd.DataFrame, classes: pd.DataFrame | None, figure: Figure, path: str | Path
) -> Path:
    """Verdict on each generator's coverage, table, classes, picture."""
    sections = [
        Section("Measures", [table(summary.T), Text(_MEANING)]),
        Section("Draws", [picture(figure, vector=False)]),
    ]
    if classes is not None:
        sections.append(Section("Classes", [table(classes), Text("Counts by the classifier that was given.")]))
    names = [name for name in summary.index if name != "data"]
    page = page_of(
        checks,
        title=" and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names),
        subtitle="Generators of the same data, judged by the same measures on data that they were not trained on.",
        sections=sections,
    )
    return write(page, path)


def table(frame: pd.DataFrame) -> Table:
    """A data frame, its index first."""
    named = zip(frame.index, frame.to_numpy(), strict=True)
    rows = [[str(name), *(_shown(value) for value in row)] for name, row in named]
    return Table(("", *map(str, frame.columns)), rows)


def _shown(value: float) -> str:
    return "-" if value != value else f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"
