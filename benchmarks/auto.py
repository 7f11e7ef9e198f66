"""The method that the library chooses: against the table written beforehand, and against every method at equal time.

    python benchmarks/auto.py                       # about eight minutes on one core; prints a table
    python benchmarks/auto.py --update              # and writes it into benchmarks/RESULTS.md
    python benchmarks/auto.py --models hmm signs

The table stands in tests/test_auto.py. `auto` runs on each model that has an exact answer (posteriordb's: reference
draws); then each method that can treat it, with settings for a few thousand effective draws. Errors are those of the
means, in posterior standard deviations, root mean square over all components: the standard error that a result states,
or the error itself where that is more than four times as large. Time is the processor's, tracing left out; the time of
`auto` is that of all steps that it took. Everything runs on the graph tier (COMPILED=1 lets machine code be made, which
takes an hour and favours chains). The error at equal time is error * sqrt(time / time of auto),
but approximations that do not get better with time are not made better.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "models")]

from test_auto import TABLE, Right  # noqa: E402

import phlogiston as ph  # noqa: E402
from phlogiston.inference import registry  # noqa: E402

RESULTS = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- auto: written by benchmarks/auto.py --update -->", "<!-- end of auto -->"
WORST = 2.0
EXACTLY = 1e-9  # an answer without error has no rival but another one
METHODS: dict[str, Any] = {
    "exact": ph.Exact(num_samples=2000),
    "importance": ph.Importance(num_particles=50_000),
    "laplace": ph.Laplace(num_samples=10_000),
    "nuts": ph.NUTS(num_chains=16, num_samples=120, num_warmup=120),
    "hmc": ph.HMC(num_chains=32, num_samples=60, num_warmup=60),
    "smc": ph.SMC(num_particles=2048),
    "gibbs": ph.Gibbs(num_chains=16, num_samples=150, num_warmup=150),
    "mh": ph.MH(num_chains=16, num_samples=200, num_warmup=200, num_steps=4),
    "svi": ph.SVI(guide="normal", num_steps=4000),
}
TIER = {} if os.environ.get("COMPILED") else {"engine": "graph"}
SMALL = {"num_samples": 10, "num_warmup": 10, "num_particles": 256, "num_steps": 50}
IN_A_LOOP = {"num_chains": 4, "num_samples": 100, "num_warmup": 100, "num_particles": 2000}
TOO_SLOW = {  # a run of minutes, which would only confirm that it is not the best
    "many_counts": ("hmc", "smc", "gibbs", "mh", "importance", "nuts"),
    "many_rows": ("smc", "gibbs", "mh", "hmc", "importance"),
    "hmm_drive": ("hmc", "smc"),
}
WITHOUT_AN_ANSWER = ("gmm", "logistic", "vae_digits", "funnel, centred")
FOR_MANY = 1000  # latents from which on SVI is a rival; below, the normal of Laplace is nearer


@dataclass(frozen=True)
class Run:
    """What a method gives, and at which cost of processor time."""

    error: float
    seconds: float
    exact: bool

    def at(self, seconds: float) -> float:
        """The error that it would have in another time."""
        factor = math.sqrt(self.seconds / seconds)
        return self.error * (factor if self.exact else max(factor, 1.0))


def error_of(posterior: ph.Posterior, reference: ph.Reference) -> float:
    """Root mean square error of the means over all components, in posterior standard deviations."""
    squares: list[np.ndarray] = []
    for site, sd in reference.sd.items():
        if site not in posterior.draws:
            continue
        spread = np.asarray(sd, dtype=float).reshape(-1)
        known = np.isfinite(spread) & (spread > 1e-12)
        if site in posterior.marginals:
            states = np.arange(posterior.marginals[site].shape[-1])
            found, stated = (posterior.marginals[site].numpy() @ states).reshape(-1), np.zeros(spread.size)
        else:
            moments = posterior.moments(site)
            found, stated = np.reshape(moments.mean, -1), np.reshape(moments.mean_se, -1)
        off = np.abs(found - np.reshape(np.asarray(reference.mean[site], dtype=float), -1))
        squares.append(np.square(np.where(off > 4.0 * stated, off, stated)[known] / spread[known]))
    return float(np.sqrt(np.mean(np.concatenate(squares))))


def fitted(method: Any, changes: Mapping[str, Any]) -> Any:
    """The method with those of the settings that it has."""
    known = {setting.name for setting in fields(method)}
    return replace(method, **{name: value for name, value in changes.items() if name in known})


def measured(model: ph.Model, method: Any, reference: ph.Reference, seed: int) -> Run:
    if registry.name_of(method) not in ("exact", "smc"):
        ph.infer(model, fitted(method, SMALL), seed=99, progress=False)  # tracing and compiling
    began = time.process_time()
    posterior = ph.infer(model, method, seed=seed, progress=False)
    seconds = time.process_time() - began
    return Run(error_of(posterior, reference), seconds, getattr(type(method), "exact", True))


@dataclass(frozen=True)
class Row:
    """A model: what was chosen, and how it compares."""

    name: str
    wanted: str
    chosen: str
    steps: str
    verdict: str
    error: float
    best: str
    best_error: float
    seconds: float
    planning: float

    @property
    def is_right(self) -> bool:
        return self.chosen == self.wanted

    @property
    def ratio(self) -> float:
        return self.error / self.best_error if self.best_error > EXACTLY else 1.0


def row_of(right: Right, seed: int) -> Row:
    model, reference = right.build()
    assert reference is not None
    began = time.process_time()
    plan = ph.recommend(model)
    planning = time.process_time() - began
    plan = replace(plan, steps=tuple(replace(each, method=fitted(each.method, TIER)) for each in plan))
    posterior = ph.infer(model, ph.Auto(plan=plan), seed=seed, progress=False)
    seconds = 0.0
    for trial in posterior.plan.trials:  # type: ignore[union-attr]
        began = time.process_time()
        step = plan[trial.step]
        ph.infer(ph.reparam(model, seed=seed) if step.rewrite else model, step.method, seed=seed, progress=False)
        seconds += time.process_time() - began
    error = error_of(posterior, reference)
    loop = {} if "a run of the program each" not in plan.facts.get("density", "") else IN_A_LOOP
    left = set(TOO_SLOW.get(right.name, ())) | _no_rivals(plan, model.target().dim, bool(loop))
    if error < EXACTLY:
        left = set(METHODS) - {"exact"}
    others = {name: run.at(seconds) for name, run in _others(left, model, reference, loop, seed)}
    best = min(others, key=lambda name: others[name], default="none")
    trials = posterior.plan.trials  # type: ignore[union-attr]
    return Row(
        name=right.name,
        wanted=right.first,
        chosen=plan.first.name,
        steps=" → ".join(trial.name for trial in trials),
        verdict=trials[posterior.plan.taken].verdict,  # type: ignore[union-attr]
        error=error,
        best=best,
        best_error=others.get(best, error),
        seconds=seconds,
        planning=planning,
    )


def _no_rivals(plan: ph.Plan, dim: int, loop: bool) -> set[str]:
    """Methods that others are known to beat on such a model: random walks where there are gradients, and so on."""
    led = plan.facts.get("gradient") == "agrees with differences"
    one = plan.facts.get("modes", "1").startswith(("0", "1 "))
    left = {"smc", "mh"} if led and one else set()
    left |= {"hmc", "smc", "gibbs"} if loop else set()
    return left if dim >= FOR_MANY else left | {"svi"}


def _others(
    left: set[str], model: ph.Model, reference: ph.Reference, loop: dict[str, int], seed: int
) -> Iterator[tuple[str, Run]]:
    for name, method in METHODS.items():
        if name in left or method.needs.unmet(model.structure) is not None:
            continue
        try:
            yield name, measured(model, fitted(method, {**TIER, **loop}), reference, seed)
        except ph.ModelError:  # it refused, or found nothing
            continue


def line_of(row: Row) -> str:
    mark = "" if row.is_right else f" (table: {row.wanted})"
    far = "" if row.ratio <= WORST else " (!)"
    return (
        f"| {row.name} | {row.chosen}{mark} | {row.steps} | {row.verdict} | {row.error:.2g} | {row.best} "
        f"| {row.best_error:.2g} | {row.ratio:.2f}{far} | {row.seconds:.2f} | {row.planning:.2f} |"
    )


HEAD = [
    "| model | first choice | steps taken | verdict | error | best other | its error then | ratio | s | planning s |",
    "| --- " * 10 + "|",
]


def text_of(rows: list[Row]) -> list[str]:
    right = sum(row.is_right for row in rows)
    near = sum(row.ratio <= WORST for row in rows)
    worst = max(rows, key=lambda row: row.ratio)
    total = sum(right.name not in WITHOUT_AN_ANSWER for right in TABLE)
    so_far = [f"So far {len(rows)} of {total} models.", ""] if len(rows) < total else []
    return [
        "## The choice of method",
        "",
        '`method="auto"` on models with known answers, against the table in tests/test_auto.py, written before the',
        "code, and against every other method at equal time. Errors are those of means in posterior standard",
        "deviations, root mean square: stated standard errors, or actual ones where these are more than four times as",
        "large. Time is the processor's, tracing left out, all steps taken included; planning apart. Everything runs",
        "on the graph tier: machine code, which chains gain most from, is not made.",
        "",
        *so_far,
        *HEAD,
        *map(line_of, rows),
        "",
        f"The first choice is the table's on {right} of {len(rows)}; the error is at most {WORST:g} times the best "
        f"other method's at equal time on {near} of {len(rows)}; the largest ratio is {worst.ratio:.2f}, of "
        f"{worst.name}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="take rows from there, and add the new ones")
    parser.add_argument("--update", action="store_true", help="write into RESULTS.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ph.PhlogistonWarning)
    kept = arguments.keep.read_text().splitlines() if arguments.keep and arguments.keep.exists() else []
    rows = {row.name: row for row in (Row(**json.loads(line)) for line in kept)}
    for right in TABLE:
        unwanted = arguments.models and right.name not in arguments.models
        if unwanted or right.name in WITHOUT_AN_ANSWER or right.name in rows:
            continue
        rows[right.name] = row = row_of(right, arguments.seed)
        print(line_of(row), flush=True)
        if arguments.keep:
            with arguments.keep.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    lines = text_of([rows[right.name] for right in TABLE if right.name in rows])
    print(lines[-1])
    if arguments.update:
        write(lines)


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
