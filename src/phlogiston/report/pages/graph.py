"""The model's graph as a picture: sites, plates, and which site feeds which."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phlogiston.engine.program.sites import Site

MOST_SITES = 40
_ROW, _GAP, _PAD, _HEIGHT = 84.0, 22.0, 16.0, 40.0
_LETTER = 7.4
_LONGEST = 20
_FILL = {"latent": "#ffffff", "observed": "#d9dee4", "deterministic": "#ffffff", "factor": "#ffffff"}


@dataclass
class _Node:
    """A site with its place; ``x`` and ``y`` are its middle."""

    site: Site
    group: tuple[str, ...]
    level: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def name(self) -> str:
        name = self.site.name
        return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"

    @property
    def law(self) -> str:
        """What is written below the name: the distribution, or what else the site is."""
        return self.site.distribution if self.site.role in ("latent", "observed") else self.site.role

    @property
    def width(self) -> float:
        return max(_LETTER * max(len(self.name), 0.85 * len(self.law)) + 26.0, 58.0)


def draw(sites: Sequence[Site], parents: Mapping[str, Sequence[str]] | None) -> str:
    """The graph as inline SVG: observed sites grey, computed ones dashed, plates as boxes.

    Args:
        sites: of the program, in its order.
        parents: site -> the sites that it depends on; None where that is not known (no arrows then).
    """
    known = [site for site in sites if site.role in _FILL]
    nodes = {site.name: _Node(site, _plates(site)) for site in known}
    arrows = [
        (nodes[parent], nodes[child])
        for child, own in (parents or {}).items()
        if child in nodes
        for parent in own
        if parent in nodes
    ]
    _set_levels(nodes, arrows)
    width, height = _place(nodes)
    boxes = _boxes(nodes)
    parts = [*boxes, *(_arrow(start, end) for start, end in arrows), *(_shape(node) for node in nodes.values())]
    return (
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="Graph of the model"><defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" '
        'markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#555"/>'
        f"</marker></defs>{''.join(parts)}</svg>"
    )


def _plates(site: Site) -> tuple[str, ...]:
    """Its plates, the outermost first."""
    return tuple(f"{plate.name} [{plate.size}]" for plate in sorted(site.plates, key=lambda plate: plate.dim))


def _set_levels(nodes: Mapping[str, _Node], arrows: Sequence[tuple[_Node, _Node]]) -> None:
    """A row for every site: below all that it depends on, and no higher than what depends on it needs."""
    for node in nodes.values():  # program order is an order of dependence
        above = [start.level for start, end in arrows if end is node]
        node.level = max(above, default=-1) + 1
    for node in reversed(list(nodes.values())):
        below = [end.level for start, end in arrows if start is node]
        if below:
            node.level = max(node.level, min(below) - 1)


def _place(nodes: Mapping[str, _Node]) -> tuple[float, float]:
    """Columns of their own for the sites of each set of plates, so that boxes hold only what is theirs."""
    groups = sorted({node.group for node in nodes.values()})
    left, deepest = _PAD, max((len(group) for group in groups), default=0)
    top = _PAD + 20.0 * deepest
    for group in groups:
        inside = [node for node in nodes.values() if node.group == group]
        rows = [[n for n in inside if n.level == level] for level in sorted({n.level for n in inside})]
        widths = [sum(n.width for n in row) + _GAP * (len(row) - 1) for row in rows]
        margin = _PAD * (1 + len(group))
        column = max(widths, default=0.0)
        for row, width in zip(rows, widths, strict=True):
            x = left + margin + (column - width) / 2.0
            for node in row:
                node.x, node.y = x + node.width / 2.0, top + node.level * _ROW + _HEIGHT / 2.0
                x += node.width + _GAP
        left += column + 2.0 * margin
    levels = max((node.level for node in nodes.values()), default=0)
    return left + _PAD, top + levels * _ROW + _HEIGHT + _PAD + 16.0 * deepest


def _boxes(nodes: Mapping[str, _Node]) -> list[str]:
    parts = []
    for plate in dict.fromkeys(plate for node in nodes.values() for plate in node.group):
        inside = [node for node in nodes.values() if plate in node.group]
        depth = min(node.group.index(plate) for node in inside)
        inner = max(len(node.group) for node in inside) - depth
        room = 12.0 * inner
        x0 = min(n.x - n.width / 2.0 for n in inside) - room
        x1 = max(n.x + n.width / 2.0 for n in inside) + room
        y0 = min(n.y for n in inside) - _HEIGHT / 2.0 - room
        y1 = max(n.y for n in inside) + _HEIGHT / 2.0 + room + 14.0
        x1 = max(x1, x0 + _LETTER * len(plate) + 16.0)
        parts.append(
            f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" rx="8" fill="none" '
            f'stroke="#8a94a0"/><text x="{x1 - 8:.1f}" y="{y1 - 6:.1f}" text-anchor="end" class="plate">'
            f"{html.escape(plate)}</text>"
        )
    return parts


def _arrow(start: _Node, end: _Node) -> str:
    """An arrow from the rim of one site to the rim of the other."""
    dx, dy = end.x - start.x, end.y - start.y
    (ax, ay), (bx, by) = _rim(start, dx, dy), _rim(end, -dx, -dy)
    bend = 0.0 if end.level == start.level + 1 else 0.18 * math.copysign(1.0, dx or 1.0) * abs(dy)
    mx, my = (ax + bx) / 2.0 + bend, (ay + by) / 2.0
    return (
        f'<path d="M{ax:.1f} {ay:.1f}Q{mx:.1f} {my:.1f} {bx:.1f} {by:.1f}" fill="none" stroke="#555" '
        'stroke-width="1.2" marker-end="url(#arrow)"/>'
    )


def _rim(node: _Node, dx: float, dy: float) -> tuple[float, float]:
    """The point at which a line in that direction leaves the ellipse of a site."""
    a, b = node.width / 2.0 + 1.0, _HEIGHT / 2.0 + 1.0
    scale = 1.0 / math.sqrt((dx / a) ** 2 + (dy / b) ** 2) if dx or dy else 0.0
    return node.x + scale * dx, node.y + scale * dy


def _shape(node: _Node) -> str:
    dashed = ' stroke-dasharray="5 3"' if node.site.role in ("deterministic", "factor") else ""
    ellipse = (
        f'<ellipse cx="{node.x:.1f}" cy="{node.y:.1f}" rx="{node.width / 2:.1f}" ry="{_HEIGHT / 2:.1f}" '
        f'fill="{_FILL[node.site.role]}" stroke="#333"{dashed}/>'
    )
    name = f'<text x="{node.x:.1f}" y="{node.y - 1:.1f}" text-anchor="middle">{html.escape(node.name)}</text>'
    law = (
        f'<text x="{node.x:.1f}" y="{node.y + 12:.1f}" text-anchor="middle" class="law">{html.escape(node.law)}</text>'
    )
    return f"<g><title>{html.escape(node.site.name)}</title>{ellipse}{name}{law}</g>"
