"""What a choice of method is made from: read off the trace, counted, or found by a few draws with a fixed seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from phlogiston.engine.program.locscale import Centred


@dataclass(frozen=True)
class Pilot:
    """A few weighted draws of a proposal, and how well it covers the posterior.

    Args:
        draws: how many.
        effective_size: how many independent draws of the posterior say as much.
        khat: how heavy the tail of their weights is.
    """

    draws: int
    effective_size: float
    khat: float

    @property
    def efficiency(self) -> float:
        """Effective size per draw."""
        return self.effective_size / self.draws

    def __str__(self) -> str:
        size = f"{self.effective_size:,.0f} ({_percent(self.efficiency)})"
        return f"{self.draws:,} draws are worth {size}, k-hat {self.khat:.2f}"


@dataclass(frozen=True)
class Rows:
    """A plate whose elements each have latents and data of their own, independent of the others given the rest."""

    plate: str
    size: int
    numbers: int
    covariates: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a model before any method has run.

    Args:
        model: the program's name.
        dim: continuous latent numbers.
        discrete: discrete latent numbers.
        log10_states: of the number of their joint states; infinity where a latent has no last value.
        data: observed numbers.
        plates: the length of each.
        uncountable: discrete latents without a last value, with their distributions.
        improper: latents with improper priors.
        table: the largest table of the exact sum over discrete latents; 0 where there are none or no sum.
        unsummable: why the finite discrete latents cannot be summed out; "" where they can.
        operations: of one density with its gradient.
        elements: numbers that these make.
        untraced: why the program is looped over; "" where it is not.
        gradient: why gradients are of no use; "" where they are.
        centred: latents that are drawn around or with others.
        prior: draws from the prior.
        normal: draws from the normal at the highest mode.
        modes: separate ones that were found; 0 where none was looked for or found.
        climbs: climbs that looked for modes.
        rows: a plate for which a guide could read every element's latents off its data.
    """

    model: str
    dim: int = 0
    discrete: int = 0
    log10_states: float = 0.0
    data: int = 0
    plates: tuple[tuple[str, int], ...] = ()
    uncountable: tuple[str, ...] = ()
    improper: tuple[str, ...] = ()
    table: int = 0
    unsummable: str = ""
    operations: int = 0
    elements: int = 0
    untraced: str = ""
    gradient: str = ""
    centred: tuple[Centred, ...] = ()
    prior: Pilot | None = None
    normal: Pilot | None = None
    modes: int = 0
    climbs: int = 0
    rows: Rows | None = None

    @property
    def has_density(self) -> bool:
        """Whether the density of the continuous latents alone can be computed."""
        return self.dim > 0 and not self.uncountable and not self.unsummable

    @property
    def funnels(self) -> tuple[Centred, ...]:
        """Latents whose scale is a latent."""
        return tuple(site for site in self.centred if site.is_funnel)

    @property
    def latents(self) -> str:
        """How many latent numbers, in words."""
        parts = [f"{self.dim:,} continuous"] * bool(self.dim) + [f"{self.discrete:,} discrete"] * bool(self.discrete)
        return " and ".join(parts)

    def lines(self) -> dict[str, str]:
        """The facts that apply, in words with their numbers."""
        facts = {"latents": f"{self.latents} numbers", "data": f"{self.data:,} numbers{self._plates()}"}
        if self.discrete:
            facts["discrete"] = self._of_discrete()
        if self.improper:
            facts["flat priors"] = ", ".join(self.improper)
        if self.untraced:
            facts["density"] = f"a run of the program each: {self.untraced}"
        elif self.operations:
            facts["density"] = f"{self.operations:,} operations on {self.elements:,} numbers, with the gradient"
        if self.has_density:
            facts["gradient"] = self.gradient or "agrees with differences"
        if self.centred:
            facts["hierarchy"] = "; ".join(str(site) for site in self.funnels) or "locations only"
        if self.prior is not None:
            facts["prior"] = str(self.prior)
        if self.climbs:
            facts["modes"] = f"{self.modes} found by {self.climbs} climbs"
        if self.normal is not None:
            facts["normal at the mode"] = str(self.normal)
        if self.rows is not None:
            facts["rows"] = f"plate {self.rows.plate!r}: {self.rows.size:,} with {self.rows.numbers} latents each"
        return facts

    def _plates(self) -> str:
        return f" in plates {', '.join(f'{name}[{size:,}]' for name, size in self.plates)}" if self.plates else ""

    def _of_discrete(self) -> str:
        if self.uncountable:
            return f"{', '.join(self.uncountable)}: without a last value"
        states = f"10^{self.log10_states:.1f}" if self.log10_states > 6 else f"{round(10**self.log10_states):,}"
        if self.unsummable:
            return f"{states} joint states; {self.unsummable}"
        return f"{states} joint states, summed in a table of {self.table:,} numbers"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 else f"{100 * fraction:.2g} %"


def rounded_up(number: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ...

    Example:
        >>> rounded_up(43_000), rounded_up(3)
        (50000, 5)
    """
    ten = 10 ** math.floor(math.log10(max(number, 1.0)))
    return next(int(ten * step) for step in (1, 2, 5, 10) if ten * step >= number * (1 - 1e-9))
