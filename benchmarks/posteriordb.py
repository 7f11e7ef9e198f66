"""A method on fourteen posteriors of posteriordb: is every component of mean and sd that of the reference draws?

A row is a posterior. z is the absolute difference from the reference draws over the Monte Carlo standard errors of
both, and the worst component of all is shown; among so many, a right method shows 2 to 4. R-hat and ESS are the worst
component's too. Sites that posteriordb does not have are left out. Needs POSTERIORDB (see
models/posteriordb/__init__.py).

    python benchmarks/posteriordb.py [--method nuts] [--set num_samples=500 ...] [--only NAME ...] [--seed 0] [--update]

`--update` writes the table into its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import ast
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models import posteriordb  # noqa: E402

import phlogiston as ph  # noqa: E402
from phlogiston.stats import arviz  # noqa: E402
from phlogiston.stats.moments import Moments, moments  # noqa: E402

RESULTS = ROOT / "benchmarks" / "RESULTS.md"
BEGIN, END = "<!-- posteriordb: written by benchmarks/posteriordb.py --update -->", "<!-- end of posteriordb -->"
# NUTS, where the default is not enough: the target acceptance rate of the reference's own run. Centred eight schools
# have no reference run of their own (their reference is the non-centred one's): no setting rids NUTS of divergences
# there, but long chains of short steps have the right moments.
NUTS: dict[str, dict[str, object]] = {
    "bball_drive_event_0-hmm_drive_0": {"target_accept_prob": 0.9},
    "eight_schools-eight_schools_centered": {
        "target_accept_prob": 0.99,
        "num_warmup": 2_000,
        "num_samples": 20_000,
    },
    "eight_schools-eight_schools_noncentered": {"target_accept_prob": 0.95},
    "gp_pois_regr-gp_regr": {"target_accept_prob": 0.99},
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": {"target_accept_prob": 0.99},
}
HEADER = ["posterior", "D", "z of mean", "z of sd", "R-hat", "bulk ESS", "divergences", "seconds", "engine", "setting"]


@dataclass(frozen=True)
class Row:
    """One posterior: the worst of its components."""

    posterior: str
    dim: int
    z_mean: float
    z_sd: float
    rhat: float
    ess: float
    divergences: int | None
    seconds: float
    engine: str
    setting: str

    def cells(self) -> list[str]:
        """As text, a cell a column."""
        numbers = [f"{self.z_mean:.2f}", f"{self.z_sd:.2f}", _shown(self.rhat, ".3f"), _shown(self.ess, ",.0f")]
        divergences = "" if self.divergences is None else str(self.divergences)
        return [self.posterior, str(self.dim), *numbers, divergences, f"{self.seconds:.1f}", self.engine, self.setting]


def components(posterior: ph.Posterior, parameters: posteriordb.Parameters) -> dict[str, np.ndarray]:
    """The draws by posteriordb's name of the parameter, each ``[chain, draw]``."""
    draws = posterior.draws
    return {name: draws[site][(..., *index)].numpy() for name, (site, *index) in parameters.items()}


def ours(posterior: ph.Posterior, site: str, index: tuple[int, ...], cache: dict[str, Moments]) -> np.ndarray:
    """Mean, its error, sd, its error of one component."""
    if site not in cache:
        cache[site] = posterior.moments(site)
    found = cache[site]
    return np.array([value[tuple(index)] for value in (found.mean, found.mean_se, found.sd, found.sd_se)])


def compare(posterior: ph.Posterior, name: str) -> tuple[float, float]:
    """The largest |z| of a mean and of an sd."""
    parameters, draws = posteriordb.load(name).parameters, posteriordb.reference_draws(name)
    cache: dict[str, Moments] = {}
    worst = np.zeros(2)
    for parameter, (site, *index) in parameters.items():
        mean, mean_se, sd, sd_se = ours(posterior, site, tuple(index), cache)
        exact = moments(draws[parameter], chains=True)
        z = [(mean - exact.mean) / np.hypot(mean_se, exact.mean_se), (sd - exact.sd) / np.hypot(sd_se, exact.sd_se)]
        worst = np.maximum(worst, np.abs(z))  # NaN stays NaN
    return float(worst[0]), float(worst[1])


def convergence(posterior: ph.Posterior, name: str) -> tuple[float, float]:
    """The largest R-hat and the smallest bulk ESS; NaN for methods without chains."""
    if not posterior.is_chain:
        return np.nan, np.nan
    values = np.stack(list(components(posterior, posteriordb.load(name).parameters).values()), -1)
    rhat = arviz.rhat(values).max() if posterior.num_chains > 1 else np.nan
    return float(rhat), float(arviz.ess(values, "bulk").min())


def run(name: str, method: str, settings: dict[str, object], seed: int) -> Row:
    """Infer one posterior, and compare."""
    model = posteriordb.load(name).model()
    own = NUTS.get(name, {}) if method == "nuts" else {}
    settings = {**own, **settings}
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)  # the table says it
        posterior = ph.infer(model, method, seed=seed, progress=False, **settings)
    seconds = time.perf_counter() - began
    diverging = posterior.stats.get("diverging")
    divergences = None if diverging is None else int(diverging.sum())
    dim = model.target().dim
    engine = posterior.engine.split()[0]
    setting = ", ".join(f"{key}={value}" for key, value in own.items())
    return Row(
        name, dim, *compare(posterior, name), *convergence(posterior, name), divergences, seconds, engine, setting
    )


def table(rows: list[Row]) -> Iterator[str]:
    """Lines of a Markdown table with aligned columns."""
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    for i, line in enumerate(cells):
        yield (
            "| "
            + " | ".join(_aligned(cell, width, j) for j, (cell, width) in enumerate(zip(line, widths, strict=True)))
            + " |"
        )
        if i == 0:
            yield "|" + "|".join("-" * (w + 1) + ("-" if j in (0, 8, 9) else ":") for j, w in enumerate(widths)) + "|"


def update(lines: list[str]) -> None:
    """Put the lines between the two markers of RESULTS.md, which are added at its end where it lacks them."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## posteriordb\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    RESULTS.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


def _shown(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value, form)


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, 8, 9) else cell.rjust(width)


def _setting(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def main() -> None:
    """Run the posteriors asked for, print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="nuts")
    parser.add_argument("--set", nargs="*", default=[], type=_setting, metavar="NAME=VALUE", help="settings")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="posteriors whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--update", action="store_true", help="write the table into benchmarks/RESULTS.md")
    options = parser.parse_args()
    try:
        posteriordb.folder()
    except RuntimeError as error:
        print(f"left out: {error}")
        return
    names = [n for n in posteriordb.posteriors() if not options.only or any(part in n for part in options.only)]
    if not names:
        parser.error(f"--only {options.only}: expected part of one of {', '.join(posteriordb.posteriors())}")
    rows = []
    for name in names:
        rows.append(run(name, options.method, dict(options.set), options.seed))
        print("  ".join(rows[-1].cells()), flush=True)
    settings = ", ".join(f"{key}={value}" for key, value in options.set) or "default settings"
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    lines = [f"Method `{options.method}`, {settings}, seed {options.seed}; {machine}.", "", *table(rows)]
    print("\n" + "\n".join(lines))
    if options.update:
        update(lines)


if __name__ == "__main__":
    main()
