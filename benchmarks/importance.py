"""Importance sampling on eight schools, prior proposal: particles a second, this library beside its peers, in one run.

Sides: this library (whole ``ph.infer`` calls: draws, weights, evidence, k-hat), Pyro's ``Importance``, Pyro's
``vectorized_importance_weights`` (on a program rewritten for batches), NumPyro by hand (``jit(vmap(log joint))``), and
NumPy by hand. Each side's log evidence stands beside the quadrature value. Peers that are not installed are left out,
saying so. Repeats are interleaved, and ratios are of medians.

    python benchmarks/importance.py [--particles 1000000] [--repeats 5] [--no-memory]
"""

from __future__ import annotations

import argparse
import math
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import eight_schools

import phlogiston as ph

EXACT = eight_schools.reference.log_evidence
Y = np.asarray(eight_schools.model.observed["y"])
SIGMA = np.asarray(eight_schools.model.args[0])
Side = Callable[[int, int], float]


def ours(particles: int, seed: int) -> float:
    """The whole call that a user makes."""
    method = ph.Importance(num_particles=particles, max_draws=max(particles, 1))
    return ph.infer(eight_schools.model, method, seed=seed, progress=False).log_evidence.value


def numpy_by_hand(particles: int, seed: int) -> float:
    """The model written out in NumPy: draws, log likelihood, log mean exp."""
    rng = np.random.default_rng(seed)
    mu, tau = 5.0 * rng.standard_normal(particles), np.abs(5.0 * rng.standard_cauchy(particles))
    theta = mu[:, None] + tau[:, None] * rng.standard_normal((particles, 8))
    log_weight = (-0.5 * ((Y - theta) / SIGMA) ** 2 - np.log(SIGMA) - 0.5 * math.log(2 * math.pi)).sum(-1)
    return float(np.logaddexp.reduce(log_weight) - math.log(particles))


def numpyro_by_hand() -> Side | None:
    """``jit(vmap(log joint))`` over prior draws, as a NumPyro user writes it."""
    try:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer.util import log_density
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)

    def model(sigma: object, y: object = None) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("school", 8):
            raw = numpyro.sample("theta_raw", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + tau * raw, sigma), obs=y)

    sigma, y = jnp.asarray(SIGMA), jnp.asarray(Y)

    def weight(key: object) -> object:
        first, second, third = jax.random.split(key, 3)
        values = {
            "mu": 5.0 * jax.random.normal(first),
            "tau": jnp.abs(5.0 * jax.random.cauchy(second)),
            "theta_raw": jax.random.normal(third, (8,)),
        }
        joint, _ = log_density(model, (sigma, y), {}, values)
        prior = (
            dist.Normal(0.0, 5.0).log_prob(values["mu"])
            + dist.HalfCauchy(5.0).log_prob(values["tau"])
            + dist.Normal(0.0, 1.0).log_prob(values["theta_raw"]).sum()
        )
        return joint - prior

    evidence = jax.jit(lambda keys: jax.scipy.special.logsumexp(jax.vmap(weight)(keys)))

    def side(particles: int, seed: int) -> float:
        return float(evidence(jax.random.split(jax.random.PRNGKey(seed), particles))) - math.log(particles)

    return side


def pyro_importance(particles: int, seed: int) -> float:
    """Pyro's ``Importance``: one trace a particle."""
    import pyro
    from pyro.infer import Importance

    pyro.set_rng_seed(seed)
    conditioned = pyro.condition(eight_schools.model.program, data={"y": torch.tensor(Y)})
    posterior = Importance(conditioned, num_samples=particles).run(torch.tensor(SIGMA))
    return float(posterior.get_log_normalizer())


def pyro_vectorized(particles: int, seed: int) -> float:
    """Pyro's vectorised weights, for which the program has to be rewritten (``[..., None]`` everywhere)."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer.importance import vectorized_importance_weights

    y, sigma = torch.tensor(Y), torch.tensor(SIGMA)

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(torch.full((), 5.0, dtype=torch.float64)))
        raw = pyro.sample("theta_raw", dist.Normal(torch.zeros(8, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(mu[..., None] + tau[..., None] * raw, sigma).to_event(1), obs=y)

    def guide() -> None:
        pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 5.0))
        pyro.sample("tau", dist.HalfCauchy(torch.full((), 5.0, dtype=torch.float64)))
        pyro.sample("theta_raw", dist.Normal(torch.zeros(8, dtype=torch.float64), 1.0).to_event(1))

    pyro.set_rng_seed(seed)
    with torch.no_grad():
        weights, *_ = vectorized_importance_weights(model, guide, num_samples=particles, max_plate_nesting=0)
    return float(torch.logsumexp(weights, 0)) - math.log(particles)


def measure(side: Side, particles: int, seed: int) -> tuple[float, float]:
    """Particles a second, and the log evidence."""
    began = time.perf_counter()
    evidence = side(particles, seed)
    return particles / (time.perf_counter() - began), evidence


def peak_memory(particles: int) -> float:
    """Peak resident memory in GB of a fresh process that runs this library with so many particles."""
    code = (
        f"import sys, resource; sys.path.insert(0, {str(Path(__file__).parent)!r}); import importance as b;"
        f"p = b.ph.infer(b.eight_schools.model, b.ph.Importance(num_particles={particles}), seed=0, progress=False);"
        "print(p.log_evidence.value, p.log_evidence.se, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    value, error, kilobytes = map(float, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    print(
        f"{particles:,} particles: log evidence {value:.5f} ± {error:.5f}, z = {(value - EXACT) / error:+.2f}, ", end=""
    )
    print(f"peak memory {kilobytes / 2**20:.2f} GB")
    return kilobytes / 2**20


def main() -> None:
    """Run all sides, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--memory", action=argparse.BooleanOptionalAction, default=True, help="10 million particles, for their memory"
    )
    options = parser.parse_args()
    sides: dict[str, tuple[Side | None, int]] = {
        "phlogiston, ph.infer": (ours, options.particles),
        "NumPyro by hand, jit(vmap)": (numpyro_by_hand(), options.particles),
        "NumPy by hand": (numpy_by_hand, options.particles),
        "Pyro vectorized_importance_weights": (pyro_vectorized, options.particles),
        "Pyro Importance": (pyro_importance, 500),
    }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}")
    speeds: dict[str, list[float]] = {}
    evidence: dict[str, float] = {}
    for repeat in range(options.repeats + 1):
        for name, (side, particles) in sides.items():
            if side is None:
                continue
            speed, evidence[name] = measure(side, particles, seed=repeat)
            if repeat:  # the first round compiles and warms up
                speeds.setdefault(name, []).append(speed)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    best = medians["phlogiston, ph.infer"]
    print(f"{'side':36s} {'particles/s':>14s} {'ours / side':>12s} {'log evidence':>13s}   exact {EXACT:.6f}")
    for name, (side, _) in sides.items():
        if side is None:
            print(f"{name:36s} not installed: pip install phlogiston[bench]")
        else:
            print(f"{name:36s} {medians[name]:14,.0f} {best / medians[name]:12.2f} {evidence[name]:13.4f}")
    if options.memory:
        peak_memory(10_000_000)
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
