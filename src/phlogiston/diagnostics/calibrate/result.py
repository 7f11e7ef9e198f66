"""What calibration found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from phlogiston.errors import UnknownName, did_you_mean
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.ranks import MEANING, Shape, Uniformity, bins_for, central_coverage, outside_band, uniformity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
LEVELS = (0.5, 0.8, 0.9, 0.95)
_SHOWN = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Ranks of the values that data were simulated from, among the posterior draws of a method given those data.

    Args:
        ranks: quantity -> fractional ranks of its true values, ``[simulation]``; uniform on [0, 1] if draws are exact.
        sizes: draws that each true value was ranked among, ``[simulation]``, after thinning.
        flagged: whether the posterior's own diagnostics found fault, ``[simulation]``.
        method: the method's name.
        source: what was simulated from: the "prior", or the "posterior" given observed data.
        seed: of the run.
        seconds: it took.
        engine: the tier that evaluated the program.
        batched: whether simulations were run at once, in blocks of chains.
        interrupted: whether it was stopped by hand; ranks are those of the simulations done.
    """

    ranks: Mapping[str, Array]
    sizes: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    method: str
    source: Literal["prior", "posterior"] = "prior"
    seed: int | None = None
    seconds: float = 0.0
    engine: str = ""
    batched: bool = False
    interrupted: bool = False

    @property
    def num_simulations(self) -> int:
        """Simulations done."""
        return int(self.sizes.size)

    def test(self, quantity: str) -> Uniformity:
        """Tests of a quantity's ranks against the uniform."""
        return uniformity(self._of(quantity), bins_for(self.num_simulations))

    def p_value(self, quantity: str) -> float:
        """The p-value of the chi-square test that the quantity's ranks are uniform."""
        return self.test(quantity).chi_square

    def shape(self, quantity: str) -> Shape:
        """What the ranks look like, at the level 0.01 over all quantities together."""
        return self.test(quantity).shape(len(self.ranks))

    def meaning(self, quantity: str) -> str:
        """The same in words."""
        return MEANING[self.shape(quantity)]

    def coverage(self, quantity: str, level: float = 0.9) -> Estimate:
        """How often the central interval of a level held the true value, with its standard error."""
        return Estimate(*central_coverage(self._of(quantity), level))

    def leaves_band(self, quantity: str) -> bool:
        """Whether the ECDF of the quantity's ranks leaves its simultaneous 95 % band."""
        return outside_band(self._of(quantity))

    @property
    def wrong(self) -> tuple[str, ...]:
        """The quantities whose ranks are not uniform, the most suspect first."""
        return tuple(name for name in self._ordered if self.shape(name) != "uniform")

    @property
    def calibrated(self) -> bool:
        """Whether no quantity's ranks are other than uniform."""
        return not self.wrong

    def plot(self, kind: Literal["ecdf", "ranks"] = "ecdf") -> Figure:
        """Differences of the ranks' distribution from the uniform with simultaneous bands, or rank histograms.

        At most twelve panels, the most suspect quantities first.
        """
        from phlogiston.report.plots import ranks as pictures

        if kind not in ("ecdf", "ranks"):
            raise UnknownName(f"plot: found kind {kind!r}; {did_you_mean(str(kind), ('ecdf', 'ranks'))}")
        names = self._ordered
        values = {name: self.ranks[name] for name in names}
        marks = ["" if (shape := self.shape(name)) == "uniform" else shape for name in names]
        title = f"Calibration of {self.method}: {self.num_simulations} simulations from the {self.source}"
        if kind == "ecdf":
            return pictures.differences(f"{title}, ECDF of ranks − uniform", values, marks)
        return pictures.histograms(f"{title}, ranks", values, marks, bins_for(self.num_simulations))

    @property
    def _ordered(self) -> list[str]:
        return sorted(self.ranks, key=lambda name: self.test(name).p_value)

    def _of(self, quantity: str) -> Array:
        if quantity not in self.ranks:
            raise UnknownName(f"calibration: found no quantity {quantity!r}; {did_you_mean(quantity, self.ranks)}")
        return self.ranks[quantity]

    def table(self) -> str:
        """P-value, coverage and shape of each quantity, the most suspect first."""
        width = max(8, *(len(name) for name in self.ranks))
        heads = "".join(f"{f'in {level:.0%}':>10}" for level in LEVELS)
        lines = [f"{'quantity':<{width}}{'p':>8}{heads}  shape"]
        for name in self._ordered:
            shares = "".join(f"{float(self.coverage(name, level).value):>10.1%}" for level in LEVELS)
            lines.append(f"{name:<{width}}{self.p_value(name):>8.3f}{shares}  {self.shape(name)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        count, wrong = self.num_simulations, self.wrong
        state = "calibrated" if not wrong else f"{len(wrong)} of {len(self.ranks)} quantities wrong"
        lines = [
            f"Calibration of {self.method} over {count} simulations from the {self.source}: {state}"
            + (" (interrupted)" if self.interrupted else "")
        ]
        lines += [f"  {name}: {self.meaning(name)}" for name in wrong[:_SHOWN]]
        if self.flagged.any():
            lines.append(f"  the diagnostics of {int(self.flagged.sum())} of {count} posteriors found fault")
        return "\n".join([*lines, self.table()])

    def __repr__(self) -> str:
        return f"Calibration({self.method}: {self.num_simulations} simulations, {len(self.wrong)} quantities wrong)"
