"""Lists of methods, of a model's sites and of its problems."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from phlogiston.engine.program.sites import Site
from phlogiston.inference.infer import MethodInfo
from phlogiston.inference.infer import methods as registered
from phlogiston.model.model import Model
from phlogiston.model.preflight import Problem
from phlogiston.posterior.tables import align

WIDTH = 100


def methods(*, markdown: bool) -> int:
    """Print every method; the exit code."""
    found = registered()
    print(markdown_table(found) if markdown else "\n\n".join(_paragraph(info) for info in found))
    return 0


def markdown_table(found: Sequence[MethodInfo]) -> str:
    """The README's table of methods."""
    rows = [["method", "needs", "settings and defaults", "source"]]
    for info in found:
        rows.append([f"`{info.name}`", info.needs, ", ".join(f"`{s}`" for s in _settings(info.defaults)), info.paper])
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _paragraph(info: MethodInfo) -> str:
    settings = ", ".join(_settings(info.defaults))
    parts = [
        f"{info.name}: {info.summary}",
        f"  needs     {info.needs}",
        f"  settings  {settings}",
        f"  source    {info.paper}",
    ]
    return "\n".join(
        textwrap.fill(part, WIDTH, subsequent_indent=" " * (12 if part.startswith("  ") else 2), break_on_hyphens=False)
        for part in parts
    )


def _settings(defaults: Mapping[str, Any]) -> list[str]:
    """``name=default``, or the name alone where a value is required or made afresh for every run."""
    return [name if value is dataclasses.MISSING else f"{name}={value!r}" for name, value in defaults.items()]


def sites(model: Model) -> str:
    """A row a site: its name, role, shape, distribution, support and plates."""
    rows = [["site", "role", "shape", "distribution", "support", "plates"]]
    rows += [_row(site) for site in model.sites.values()]
    return align([[cell or "-" for cell in row] for row in rows])


def _row(site: Site) -> list[str]:
    random = site.role in ("latent", "observed")
    return [
        site.name,
        site.role,
        "" if site.role == "factor" else str(list(site.shape)) if site.shape else "scalar",
        site.distribution if random else "",
        _support(site.support) if random else "",
        ", ".join(f"{plate.name}[{plate.size}]" for plate in site.plates),
    ]


def _support(support: Any) -> str:
    text = re.sub(r"\(\)|\w+_bound=", "", str(support))
    return textwrap.shorten(text, 44, placeholder=" ...")


def problems(found: Sequence[Problem]) -> str:
    """Every problem, each a paragraph with the line to write."""
    if not found:
        return "\nno problems found"
    texts = [textwrap.fill(f"{p.severity}: {p}", WIDTH, subsequent_indent="  ", break_long_words=False) for p in found]
    return "\n" + "\n".join(texts)
