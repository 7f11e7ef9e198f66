"""Mean-field variational inference on eight schools: steps a second, this library beside its peers, in one run.

Every side has the same program, guide (independent normals on the unconstrained scale), estimator (one draw a step) and
optimiser (Adam, learning rate 0.01); each runs in a process of its own. Steps a second are those of a longer run beyond
those of a shorter one, both after a first, so that neither tracing nor compiling counts. "cold" is the time from the
program to a converged bound in a fresh process, compiling included and imports not: this library stops by its own rule
(eight draws a step), with an empty and with a filled cache of compiled code; NumPyro runs 10,000 steps, Pyro 1,000
(which is not enough: its bound says so).

    python benchmarks/svi.py [--steps 200000]

Peers that are not installed are left out, saying so; ``pip install -e '.[bench]'`` installs them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

RATE, PEERS_STEPS = 0.01, 10_000
Run = Callable[[int], float]  # steps -> mean bound of the last ones


def ours() -> tuple[Run, Run]:
    """The whole call that a user makes."""
    import eight_schools

    import phlogiston as ph

    def fixed(steps: int) -> float:
        method = ph.SVI(
            num_steps=steps,
            stop=False,
            num_particles=1,
            window=1000,
            engine="compiled",
            optim=ph.Adam(learning_rate=RATE),
        )
        return float(ph.infer(eight_schools.model, method, seed=0, progress=False).history["elbo"][-1000:].mean())

    def converged(steps: int) -> float:
        posterior = ph.infer(eight_schools.model, ph.SVI(), seed=0, progress=False)
        return float(posterior.elbo.value)

    return fixed, converged


def pyro_side(jit: bool) -> tuple[Run, Run]:
    """``SVI`` with ``AutoNormal``, as Pyro's tutorials write it."""
    import eight_schools
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
    from pyro.infer.autoguide import AutoNormal

    y, sigma = eight_schools.model.observed["y"], eight_schools.model.args[0]
    torch.set_default_dtype(torch.float64)

    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", 8):
            raw = pyro.sample("theta_raw", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * raw, sigma), obs=y)

    def run(steps: int) -> float:
        pyro.clear_param_store()
        loss = JitTrace_ELBO(ignore_jit_warnings=True) if jit else Trace_ELBO()
        svi = SVI(program, AutoNormal(program), pyro.optim.Adam({"lr": RATE}), loss)
        bounds = [-svi.step() for _ in range(steps)]
        return sum(bounds[-1000:]) / len(bounds[-1000:])

    return run, run


def numpyro_side() -> tuple[Run, Run]:
    """``svi.run`` with ``AutoNormal``: one jitted loop over all steps."""
    import eight_schools
    import jax
    import numpy as np
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    jax.config.update("jax_enable_x64", True)
    y, sigma = np.asarray(eight_schools.model.observed["y"]), np.asarray(eight_schools.model.args[0])

    def program() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("school", 8):
            raw = numpyro.sample("theta_raw", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + tau * raw, sigma), obs=y)

    svi = SVI(program, AutoNormal(program), numpyro.optim.Adam(RATE), Trace_ELBO())

    def run(steps: int) -> float:
        result = svi.run(jax.random.PRNGKey(0), steps, progress_bar=False)
        return float(-np.asarray(result.losses)[-1000:].mean())

    return run, run


SIDES: dict[str, tuple[str, Callable[[], tuple[Run, Run]], float]] = {  # module, runs, its share of the steps
    "phlogiston": ("phlogiston", ours, 1.0),
    "NumPyro": ("numpyro", numpyro_side, 1.0),
    "Pyro": ("pyro", lambda: pyro_side(False), 0.01),
    "Pyro, JIT": ("pyro", lambda: pyro_side(True), 0.02),
}


def measured(side: str, steps: int, *, only_cold: bool) -> dict[str, float]:
    """In this process: the cold run, then a short and a long one."""
    fixed, converged = SIDES[side][1]()
    began = time.perf_counter()
    bound = converged(PEERS_STEPS if SIDES[side][2] == 1.0 else int(PEERS_STEPS * 0.1))
    found = {"cold_s": time.perf_counter() - began, "elbo": bound}
    if only_cold:
        return found
    count = int(steps * SIDES[side][2])
    fixed(count // 10)
    times = []
    for length in (count // 10, count):
        began = time.perf_counter()
        fixed(length)
        times.append(time.perf_counter() - began)
    return found | {"steps_per_s": (count - count // 10) / (times[1] - times[0]), "call_s": times[1], "steps": count}


def in_a_process(side: str, steps: int, cache: str | None, *, only_cold: bool = False) -> dict[str, Any]:
    """The figures of one side from a fresh process."""
    environment = {**os.environ, **({"PHLOGISTON_CACHE": cache} if cache else {})}
    flags = ["--side", side, "--steps", str(steps), *(["--only-cold"] if only_cold else [])]
    command = [sys.executable, __file__, *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--only-cold", action="store_true")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measured(given.side, given.steps, only_cold=given.only_cold)))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    table: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for side, (module, _, _) in SIDES.items():
            if importlib.util.find_spec(module) is None:
                print(f"{side}: not installed")
                continue
            own = side == "phlogiston"
            empty = in_a_process(side, given.steps, cache, only_cold=True)["cold_s"] if own else float("nan")
            table[side] = in_a_process(side, given.steps, cache if own else None) | {"empty_s": empty}
    pyro_rate = table["Pyro"]["steps_per_s"]
    print("| side | steps/s | against Pyro | whole call, warm (s) | cold, s | cold, empty cache, s | ELBO |")
    print("|---|---|---|---|---|---|---|")
    for side, row in table.items():
        empty = f"{row['empty_s']:.1f}" if row["empty_s"] == row["empty_s"] else ""
        print(
            f"| {side} | {row['steps_per_s']:,.0f} | {row['steps_per_s'] / pyro_rate:,.1f} | {row['call_s']:.2f} for "
            f"{row['steps']:,} | {row['cold_s']:.1f} | {empty} | {row['elbo']:.3f} |"
        )


if __name__ == "__main__":
    main()
