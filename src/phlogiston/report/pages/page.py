"""A page: what it says, block by block, and how it becomes one file that needs nothing else."""

from __future__ import annotations

import base64
import functools
import importlib.resources
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from phlogiston.engine import files
from phlogiston.errors import DataFileError, problem
from phlogiston.posterior.verdict import COLOURS, Check, Diagnosis, Finding, Verdict

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

_LARGEST_SVG = 120_000
_DPI = 110
_COLOURS = 160
_FONTS = "'DejaVu Sans', Verdana, Arial, sans-serif"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Code:
    """Lines as they are, folded away where they are many."""

    text: str
    title: str = ""
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Markup:
    """HTML or SVG that the library itself has made."""

    html: str
    kind: ClassVar[str] = "markup"


@dataclass(frozen=True)
class Table:
    """Rows under a head; long ones are folded.

    Args:
        head: of the columns.
        rows: of text.
        folded: the rest, behind a line to click.
        numbers: whether all columns but the first are numbers, to be set flush right.
        sentences: whether cells hold sentences, so that on a phone they stand below each other.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: Sequence[Sequence[str]] = ()
    numbers: bool = True
    sentences: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """An image within the page.

    Args:
        source: a data URI.
        width: in pixels, at which its text has its size.
        title: what it shows, for those who cannot see it.
        caption: what to look for.
    """

    source: str
    width: int
    title: str
    caption: str = ""
    kind: ClassVar[str] = "picture"


Block = Text | Code | Markup | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """What a link to it is called."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report.

    Args:
        title: the first line.
        subtitle: the second.
        verdict: whether to believe it.
        headline: the verdict in a line.
        findings: what is wrong, the gravest first.
        checks: everything that was looked at.
        sections: the rest.
        footer: the last line.
    """

    title: str
    subtitle: str
    verdict: Verdict
    headline: str
    findings: Sequence[Finding] = ()
    checks: Sequence[Check] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = ""

    @property
    def colour(self) -> str:
        """The colour of the verdict."""
        return COLOURS[self.verdict]


def dotted(name: str) -> str:
    """A parameter's name as Python writes it: Pyro puts $$$ between a module and what is in it."""
    return name.replace("$$$", ".")


def page_of(report: Diagnosis, *, title: str, subtitle: str, sections: Sequence[Section]) -> Page:
    """A page under the verdict of a report."""
    return Page(
        title=title,
        subtitle=subtitle,
        verdict=report.verdict,
        headline=report.headline,
        findings=report.findings,
        checks=report.checks,
        sections=sections,
        footer="Written by phlogiston. This page is one file: it fetches nothing and runs no scripts.",
    )


def picture(figure: Figure, caption: str = "", *, vector: bool = True) -> Picture:
    """A matplotlib figure as SVG where that is small, else as PNG.

    Args:
        figure: what to show.
        caption: what to look for in it.
        vector: whether SVG is worth trying; not for thousands of points.
    """
    title = figure.get_suptitle().replace("\n", " ")
    width = round(96.0 * figure.get_size_inches()[0])
    if vector:
        drawn = _svg(figure)
        if len(drawn) <= _LARGEST_SVG:
            return Picture(_uri("image/svg+xml", drawn), width, title, caption)
    return Picture(_uri("image/png", _png(figure)), width, title, caption)


def _png(figure: Figure) -> bytes:
    """The picture with a palette: lines and points need few colours, and a palette saves two thirds of the bytes."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    palette = Image.open(drawn).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    palette.save(packed, format="png", optimize=True)
    return packed.getvalue()


def _svg(figure: Figure) -> bytes:
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "phlogiston"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace("'DejaVu Sans'", _FONTS)
    return re.sub(r"\n\s+", "\n", text).encode()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@functools.lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    text = importlib.resources.files("phlogiston.report.pages").joinpath("page.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        text
    )


def render(page: Page) -> str:
    """The page as HTML: one file, no scripts, nothing fetched."""
    return _template().render(page=page)


def write(page: Page, path: str | Path) -> Path:
    """Write a page; folders are made.

    Raises:
        DataFileError: the path is one of another kind of file, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in ("", ".htm", ".html"):
        found, fix = f"a file of kind {path.suffix!r}", f"{str(path.with_suffix('.html'))!r}"
        raise DataFileError(problem(f"report to {path}", found=found, expected="a page, which is HTML", fix=fix))
    return files.write(path, render(page).encode())
