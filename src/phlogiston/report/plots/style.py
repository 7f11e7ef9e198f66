"""How every picture looks, without touching a global for longer than the picture takes."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

# Okabe and Ito (2008), Color Universal Design: told apart with any colour vision. https://jfly.uni-koeln.de/color/
BLUE, GREEN, PINK, SKY, ORANGE = "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
DIVERGENT = "#D55E00"
PALE = "#9DC6E0"
INK, QUIET = "#222222", "#6E6E6E"
CHAINS = (BLUE, ORANGE, GREEN, PINK, SKY)

_RC = {
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "axes.facecolor": "white",
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.2,
}
_CHARACTERS_PER_INCH = 13.0


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the library's style, whatever the user's own is, and leave the user's as it was."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib as mpl

        with mpl.rc_context(cast(Any, _RC)):
            return draw(*args, **kwargs)

    return wrapped


def picture(title: str, notes: list[str], width: float, height: float) -> Figure:
    """An empty figure with a title and, in a line of their own, notes.

    Args:
        title: what it shows.
        notes: what to know when reading it; empty ones are left out.
        width: in inches.
        height: of the panels, in inches; that of the title comes on top.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from phlogiston.report.plots.picture import Picture

    lines = [title, "; ".join(note for note in notes if note)]
    wrapped = [part for line in lines if line for part in textwrap.wrap(line, int(width * _CHARACTERS_PER_INCH))]
    engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06, wspace=0.02, hspace=0.02)
    figure = Picture(figsize=(width, height + 0.2 * len(wrapped)), layout=engine)
    figure.suptitle("\n".join(wrapped), x=0.01, ha="left", fontsize=10, linespacing=1.3)
    return figure


def panels(
    title: str, notes: list[str], count: int, size: tuple[float, float] = (2.6, 2.1)
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels in up to four columns."""
    columns = count if count <= 4 else 3 if count in (5, 6, 9) else 4
    rows = math.ceil(count / columns)
    width = max(6.0, size[0] * columns)
    figure = picture(title, notes, width, size[1] * rows * (1.5 if count == 1 else 1.0))
    grid = figure.add_gridspec(rows, columns)
    return figure, [neat(figure.add_subplot(grid[i // columns, i % columns])) for i in range(count)]


def plain(text: str) -> str:
    """A label as it is, dollar signs too."""
    return text.replace("$", r"\$")


def neat(axes: Axes) -> Axes:
    """The axes with small quiet ticks (set here, as matplotlib makes ticks after the style is gone)."""
    axes.tick_params(which="both", labelsize=8, length=2.5, width=0.6, color=QUIET, labelcolor=INK, direction="out")
    axes.tick_params(which="minor", length=1.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(7.5)
    return axes


def bare_y(axes: Axes) -> None:
    """No y axis: a density's height says nothing that its shape does not."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def ticks(axes: Axes, most_x: int | None = None, most_y: int | None = None, *, whole_x: bool = False) -> None:
    """Few enough ticks that their labels keep apart."""
    from matplotlib.ticker import MaxNLocator

    if most_x is not None:
        axes.xaxis.set_major_locator(MaxNLocator(most_x, steps=[1, 2, 2.5, 5, 10], integer=whole_x))
    if most_y is not None:
        axes.yaxis.set_major_locator(MaxNLocator(most_y, steps=[1, 2, 2.5, 5, 10]))


def chain_colours(count: int) -> list[Any]:
    """A colour a chain; shades of one scale for more chains than there are colours."""
    if count <= len(CHAINS):
        return list(CHAINS[:count])
    from matplotlib import colormaps

    return [colormaps["viridis"](0.92 * i / (count - 1)) for i in range(count)]


def shares(axes: Axes, states: int) -> None:
    """A y axis of probabilities: from zero to one where there are few states, so that panels compare."""
    if states <= 6:
        axes.set_yticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
        axes.set_ylim(0.0, 1.03)
    else:
        ticks(axes, most_y=3)
        axes.set_ylim(bottom=0.0)
