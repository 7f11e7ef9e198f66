"""The evidence by every estimator on models whose evidence is known: errors, and whether the stated ones are honest.

    python benchmarks/evidence.py                # 50 seeds of everything, 100 sandwiches, prints the tables
    python benchmarks/evidence.py --update       # and writes them into benchmarks/RESULTS.md
    python benchmarks/evidence.py --seeds 10 --sandwiches 20 --models mixture ppca

z is (estimate - exact) / stated standard error. Stated errors are honest where z has standard deviation 1; SMC's come
from 16 islands, so its z has that of a Student-t with 15 degrees of freedom, 1.07. Settings are small, so that errors
are large enough to be judged.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

import phlogiston as ph

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

RESULTS = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- evidence: written by benchmarks/evidence.py --update -->", "<!-- end of evidence -->"
MODELS = (
    "beta_binomial",
    "normal_normal",
    "nig_regression",
    "dirichlet_categorical",
    "gamma_poisson",
    "mixture",
    "ppca",
    "eight_schools",
)
Estimator = Callable[[ph.Model, int], ph.Estimate]
NUTS = ph.NUTS(num_samples=250, num_warmup=150, engine="graph")


def own(method: object) -> Estimator:
    """The evidence that a method finds by itself."""

    def estimate(model: ph.Model, seed: int) -> ph.Estimate:
        found = ph.infer(model, method, seed=seed, progress=False).log_evidence  # type: ignore[arg-type]
        assert found is not None
        return found

    return estimate


def of_draws(kind: str) -> Estimator:
    return lambda model, seed: ph.evidence(ph.infer(model, NUTS, seed=seed, progress=False), kind)  # type: ignore[arg-type]


ESTIMATORS: dict[str, Estimator] = {
    "importance, prior, 4,000": own(ph.Importance(num_particles=4000, engine="graph")),
    "rejection, 300 accepted": own(ph.Rejection(num_samples=300)),
    "SMC, 1,024, HMC": own(ph.SMC(num_particles=1024, num_steps=4, engine="graph")),
    "SMC, 1,024, random walk": own(ph.SMC(num_particles=1024, num_steps=4, moves="mh", engine="graph")),
    "AIS, 200 x 30, HMC": own(ph.AIS(num_particles=200, num_temperatures=30, engine="graph")),
    "bridge, NUTS 4 x 250": of_draws("bridge"),
    "importance from NUTS 4 x 250": of_draws("importance"),
}


@dataclass(frozen=True)
class Cell:
    """One estimator on one model."""

    errors: np.ndarray
    stated: np.ndarray
    seconds: float

    @property
    def z(self) -> np.ndarray:
        return self.errors / np.maximum(self.stated, 1e-12)

    @property
    def honest(self) -> bool:
        return 0.8 <= float(self.z.std(ddof=1)) <= 1.25


def measured(estimator: Estimator, name: str, seeds: int) -> Cell:
    module = import_module(name)
    began, found = time.perf_counter(), [estimator(module.model, seed) for seed in range(seeds)]
    values = np.array([float(each.value) for each in found])
    stated = np.array([float(each.se) for each in found])
    return Cell(values - module.reference.log_evidence, stated, (time.perf_counter() - began) / seeds)


def exact_of_normal_normal(y: np.ndarray) -> float:
    covariance = np.eye(y.size) + 4.0
    quadratic = y @ np.linalg.solve(covariance, y)
    return float(-0.5 * (y.size * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + quadratic))


def exact_of_ppca(x: np.ndarray) -> float:
    weights = np.array([[1.0, 0.0], [0.5, 1.0], [0.0, -1.0], [0.3, 0.2]])
    covariance = weights @ weights.T + 0.25 * np.eye(4)
    quadratic = x @ np.linalg.solve(covariance, x)
    return float(-0.5 * (x.size * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + quadratic))


def sandwiches(name: str, exact: Callable[[np.ndarray], float], count: int) -> str:
    """How often the bounds hold the evidence of simulated data, and how far apart they are."""
    method, inside, widths, gaps = ph.AIS(num_particles=100, num_temperatures=20, engine="graph"), 0, [], []
    model = import_module(name).model
    for seed in range(count):
        both = method.sandwich(model, seed=seed)
        (data,) = both.model.observed.values()
        low, high = both.interval
        inside += low <= exact(data.double().numpy()) <= high
        widths.append(high - low)
        gaps.append(float(both.gap.value))
    return f"| {name} | {inside} of {count} | {np.median(widths):.3f} | {np.mean(gaps):.3f} |"


def table_of(cells: dict[tuple[str, str], Cell], names: list[str]) -> list[str]:
    lines = ["| model | estimator | mean error | mean stated se | mean z | sd of z | largest z | seconds |"]
    lines.append("| --- " * 8 + "|")
    for name in names:
        for label in ESTIMATORS:
            if (cell := cells.get((name, label))) is not None:
                z = cell.z
                mark = "" if cell.honest else " (!)"
                lines.append(
                    f"| {name} | {label} | {cell.errors.mean():+.4f} | {cell.stated.mean():.4f} | {z.mean():+.2f} "
                    f"| {z.std(ddof=1):.2f}{mark} | {np.abs(z).max():.2f} | {cell.seconds:.2f} |"
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--sandwiches", type=int, default=100)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--update", action="store_true", help="write into RESULTS.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ph.PhlogistonWarning)  # small settings earn them
    cells: dict[tuple[str, str], Cell] = {}
    for name in arguments.models:
        for label, estimator in ESTIMATORS.items():
            cells[name, label] = measured(estimator, name, arguments.seeds)
            print(*table_of({(name, label): cells[name, label]}, [name])[2:], flush=True)
    bounds = [
        sandwiches("normal_normal", exact_of_normal_normal, arguments.sandwiches),
        sandwiches("ppca", exact_of_ppca, arguments.sandwiches),
    ]
    print(*bounds, sep="\n")
    lines = [*text_of(arguments.seeds), *table_of(cells, arguments.models), "", *SANDWICHED, *bounds]
    honest = sum(cell.honest for cell in cells.values())
    worst = max(float(np.abs(cell.z).max()) for cell in cells.values())
    lines += ["", f"Honest (sd of z from 0.8 to 1.25): {honest} of {len(cells)}; largest |z| of all: {worst:.2f}."]
    print(lines[-1])
    if arguments.update:
        write(lines)


SANDWICHED = [
    "Sandwiches on simulated data, `ph.AIS(num_particles=100, num_temperatures=20)`: how often the interval holds the",
    "exact evidence of the data, its median width, and the mean gap between the bounds, in nats.",
    "",
    "| model | inside | width | gap |",
    "| --- | --- | --- | --- |",
]


def text_of(seeds: int) -> list[str]:
    return [
        "## Evidence",
        "",
        f"{seeds} seeds of each estimator; z is (estimate - exact) / stated standard error; (!): its standard",
        "deviation is outside 0.8 to 1.25. SMC's errors have 15 degrees of freedom, for which 1.07 is expected.",
        "",
    ]


def write(lines: list[str]) -> None:
    """Put the lines between the two markers of RESULTS.md, which are added at its end where it lacks them."""
    text = RESULTS.read_text(encoding="utf-8")
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    RESULTS.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
