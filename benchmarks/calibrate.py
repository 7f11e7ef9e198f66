"""Simulation-based calibration: how long it takes, whether exact posteriors pass and wrong ones are named.

    python benchmarks/calibrate.py               # prints the tables
    python benchmarks/calibrate.py --update      # and writes them into benchmarks/RESULTS.md
    python benchmarks/calibrate.py --only speed  # or methods, uniform, shapes

speed: 200 simulations of eight schools under NUTS, start to end in this process, with what compiling takes.
methods: 40 simulations of small models under other methods, one trace serving all.
uniform: closed-form posterior of normal data with a normal prior, many seeds, 200 simulations each.
shapes: the same with a posterior that is too wide, too narrow, or shifted.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections import Counter
from importlib import import_module

import numpy as np
import pyro
import pyro.distributions as dist
from results import insert, load_models

import phlogiston as ph
from phlogiston.stats import ranks

MARK = "calibrate"
SIMULATIONS, DRAWS, DATA, PRIOR_SD = 200, 99, 3, 2.0
VARIANCE = 1.0 / (1.0 / PRIOR_SD**2 + DATA)
WRONG = {
    "exact": (0.0, 1.0),
    "too narrow (sd x 0.7)": (0.0, 0.7),
    "too wide (sd x 1.4)": (0.0, 1.4),
    "biased up (+ 0.4 sd)": (0.4, 1.0),
    "biased down (- 0.4 sd)": (-0.4, 1.0),
}
NAMES = {
    "exact": "uniform",
    "too narrow (sd x 0.7)": "over-confident",
    "too wide (sd x 1.4)": "under-confident",
    "biased up (+ 0.4 sd)": "biased high",
    "biased down (- 0.4 sd)": "biased low",
}


def simulated(seed: int, shift: float, stretch: float) -> np.ndarray:
    """Ranks of normal means among draws of their closed-form posterior, moved and stretched."""
    rng = np.random.default_rng(seed)
    mu = PRIOR_SD * rng.standard_normal(SIMULATIONS)
    mean = VARIANCE * (DATA * mu + DATA**0.5 * rng.standard_normal(SIMULATIONS))
    noise = rng.standard_normal((DRAWS, SIMULATIONS))
    return ranks.fractional_ranks(mu, mean + VARIANCE**0.5 * (shift + stretch * noise), rng)


def speed() -> list[str]:
    model = import_module("eight_schools").model
    began, busy = time.perf_counter(), time.process_time()
    found = ph.calibrate(model, "nuts", num_simulations=SIMULATIONS, seed=0, progress=False)
    wall, busy = time.perf_counter() - began, time.process_time() - busy
    state = "calibrated" if found.calibrated else f"wrong: {', '.join(found.wrong)}"
    return [
        f"{SIMULATIONS} simulations of eight schools under NUTS (each 4 x 1,000 draws after 1,000 of warm-up):",
        f"{busy:.1f} s of the processor's, {wall:.1f} s by the clock of a machine of {os.cpu_count()} cores with load "
        f"{os.getloadavg()[1]:.0f};",
        f"blocks of chains serve many simulations at once: {found.batched};",
        f"tier {found.engine}; {len(found.ranks)} quantities, {state}; {int(found.flagged.sum())} posteriors flagged",
        "by their own diagnostics (asked: under 60 s).",
    ]


def switch() -> None:
    z = pyro.sample("z", dist.Bernoulli(0.3))
    pyro.sample("y", dist.Normal(2.0 * z, 1.0))


def methods() -> list[str]:
    normal, count = import_module("normal_normal").model, 40
    short = {"num_samples": 250, "num_warmup": 250}
    jobs: list[tuple[str, ph.Model, dict[str, int]]] = [
        ("exact", ph.Model(switch).observe(y=0.0), {}),
        ("importance", normal, {}),
        ("smc", normal, {}),
        ("ais", normal, {}),
        ("laplace", normal, {}),
        ("hmc", normal, short),
        ("mh", normal, short),
        ("gibbs", ph.Model(switch).observe(y=0.0), short),
    ]
    lines = ["| method | model | seconds a simulation | wrong quantities |", "| --- | --- | --- | --- |"]
    for name, model, settings in jobs:
        began = time.process_time()
        found = ph.calibrate(model, name, num_simulations=count, seed=0, progress=False, **settings)
        each = (time.process_time() - began) / count
        lines.append(f"| {name} | {model.name} | {each:.3f} | {len(found.wrong)} of {len(found.ranks)} |")
    return lines


def uniform(seeds: int) -> list[str]:
    bins = ranks.bins_for(SIMULATIONS)
    share = np.mean([ranks.chi_square(simulated(seed, 0.0, 1.0), bins) > 0.01 for seed in range(seeds)])
    return [f"Exact posterior, {seeds} seeds: chi-square p > 0.01 in {share:.1%} (99 % expected; asked: 98 %)."]


def shapes(seeds: int) -> list[str]:
    lines = ["| posterior | flagged | by its name | outside the 95 % band |", "| --- | --- | --- | --- |"]
    for label, (shift, stretch) in WRONG.items():
        found = [simulated(seed, shift, stretch) for seed in range(seeds)]
        named = Counter(ranks.uniformity(u, ranks.bins_for(SIMULATIONS)).shape() for u in found)
        out = np.mean([ranks.outside_band(u) for u in found])
        flagged = 1.0 - named["uniform"] / seeds
        right = named[NAMES[label]] / seeds  # type: ignore[index]
        lines.append(f"| {label} | {flagged:.1%} | {right:.1%} | {out:.1%} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2000, help="of the closed-form posteriors")
    parser.add_argument("--only", nargs="+", choices=("speed", "methods", "uniform", "shapes"))
    parser.add_argument("--update", action="store_true", help="write into RESULTS.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ph.PhlogistonWarning)
    parts = {
        "speed": speed,
        "methods": methods,
        "uniform": lambda: uniform(arguments.seeds),
        "shapes": lambda: shapes(arguments.seeds // 4),
    }
    lines = ["## Calibration", ""]
    for name, part in parts.items():
        if name in (arguments.only or parts):
            lines += [*(found := part()), ""]
            print(*found, "", sep="\n", flush=True)
    if arguments.update:
        insert(MARK, "benchmarks/calibrate.py", lines[:-1])


if __name__ == "__main__":
    load_models()
    main()
