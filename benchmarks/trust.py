"""Whether ``diagnose`` tells bad fits from good ones: known-bad fits, healthy fits, and the confusion table.

    python benchmarks/trust.py              # 10 seeds of every bad fit, 100 healthy seeds
    python benchmarks/trust.py --update     # and writes the tables into benchmarks/RESULTS.md
    python benchmarks/trust.py --seeds 2 --healthy 20
    python benchmarks/trust.py --fresh      # forgets what an earlier run kept in runs/trust/

A fit is bad by construction: an algorithm that is known to fail on the target, or draws with a fault put into them by
hand. It is detected if the verdict is not "trust". A healthy fit is a method on a model that it treats well, with its
default or documented settings; every verdict but "trust" is a false alarm.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from results import ROOT, Kept, insert
from sklearn.datasets import load_iris

import phlogiston as ph
from phlogiston.posterior.verdict import Diagnosis
from phlogiston.training.fitted import Fitted

sys.path.insert(0, str(ROOT / "models"))

import beta_binomial
import eight_schools
import funnel
import gamma_poisson
import mixture
import nig_regression
import normal_normal
import ppca

Fit = Callable[[int], Diagnosis]
DTYPE = torch.float64
FAST = ph.Adam(learning_rate=0.01, beta1=0.5, beta2=0.99)


def correlated(rho: float) -> ph.Model:
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=DTYPE)
    return ph.Model(lambda: pyro.sample("z", dist.MultivariateNormal(torch.zeros(2, dtype=DTYPE), covariance)))


def modes(share: float, distance: float) -> ph.Model:
    """Two normals of unit sd, the left one with the given weight; a second coordinate is plain."""

    def program() -> None:
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("plain", dist.Normal(0.0, 1.0))
        weights, centres = torch.tensor([share, 1.0 - share]), torch.tensor([-distance, distance])
        pyro.factor("modes", torch.logsumexp(weights.log() - 0.5 * (z - centres) ** 2, 0))

    return ph.Model(program)


def scale(y: float = 1.3) -> ph.Model:
    def program() -> None:
        sigma = pyro.sample("sigma", dist.Gamma(3.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, sigma))

    return ph.Model(program).observe(y=y)


def given(model: ph.Model, **draws: np.ndarray) -> Diagnosis:
    """The report of draws made by hand: independent, [draw, ...]."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(value[None])).to(DTYPE) for name, value in draws.items()}
    return ph.Posterior(draws=tensors, method="by hand", model=model, seed=0).diagnose()


def run(model: ph.Model, method: str, seed: int, **settings: Any) -> Diagnosis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        return ph.infer(model, method, seed=seed, progress=False, **settings).diagnose()


# Faults ---------------------------------------------------------------------------------------------------------------


def centred_funnel(seed: int) -> Diagnosis:
    return run(funnel.centred_model, "nuts", seed)


def separated_modes(seed: int) -> Diagnosis:
    """Four chains, of which at least one starts in either mode, as R-hat knows only of modes that a chain has found."""
    starts = {"z": torch.tensor([-8.0, -8.0, 8.0, 8.0], dtype=DTYPE), "plain": torch.zeros(4, dtype=DTYPE)}
    return run(modes(0.5, 8.0), "nuts", seed, initial=starts)


def mean_field(seed: int) -> Diagnosis:
    """Draws of the best mean-field normal of a normal with correlation 0.99: each variance 1 / precision."""
    rng, rho = np.random.default_rng(seed), 0.99
    return given(correlated(rho), z=rng.standard_normal((2000, 2)) * np.sqrt(1.0 - rho**2))


def mean_field_svi(seed: int) -> Diagnosis:
    """The same by SVI, whose draws carry weights."""
    return run(correlated(0.99), "svi", seed, guide="normal", engine="graph")


def thin_proposal(seed: int) -> Diagnosis:
    """A normal of sd 0.3 for a target of sd 1: k-hat is 1 - 0.3^2 = 0.91."""
    model = ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
    return run(model, "importance", seed, proposal=lambda: pyro.sample("z", dist.Normal(0.0, 0.3)))


def wrong_variance(factor: float) -> Fit:
    def fit(seed: int) -> Diagnosis:
        root = np.linalg.cholesky([[1.0, 0.6], [0.6, 1.0]])
        z = np.sqrt(factor) * np.random.default_rng(seed).standard_normal((2000, 2)) @ root.T
        return given(correlated(0.6), z=z)

    return fit


def of_density(power: float) -> Fit:
    """Draws from p(sigma | y) sigma^power: power 0 is right, -1 is the density of log sigma without its Jacobian."""

    def fit(seed: int) -> Diagnosis:
        grid = np.geomspace(1e-3, 30.0, 20_000)
        log_p = (2.0 + power) * np.log(grid) - grid - np.log(grid) - 0.5 * (1.3 / grid) ** 2
        mass = np.exp(log_p - log_p.max()) * np.gradient(grid)
        rng = np.random.default_rng(seed)
        sigma = rng.choice(grid, 2000, p=mass / mass.sum()) * np.exp(rng.normal(0.0, 1e-4, 2000))
        return given(scale(), sigma=sigma)

    return fit


def mode_weight(drawn: float) -> Fit:
    """Draws of two modes with weights drawn and 1 - drawn, where the density has 0.7 and 0.3."""

    def fit(seed: int) -> Diagnosis:
        rng = np.random.default_rng(seed)
        z = np.where(rng.random(2000) < drawn, -5.0, 5.0) + rng.standard_normal(2000)
        return given(modes(0.7, 5.0), z=z, plain=rng.standard_normal(2000))

    return fit


def stuck_chain(seed: int) -> Diagnosis:
    """Three chains that move, and one that repeats its first point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        post = ph.infer(normal_normal.model, "nuts", seed=seed, progress=False)
    draws = {name: value.clone() for name, value in post.draws.items()}
    for value in draws.values():
        value[3] = value[3, :1]
    return ph.Posterior(
        draws=draws, stats=post.stats, is_chain=True, method="nuts", model=post.model, seed=0
    ).diagnose()


def linear_vae(sigma: float) -> Fit:
    """A VAE with a linear decoder and known noise, on iris: with sigma^2 above every variance of the data, the best
    decoder is zero and the latents say nothing (Lucas et al. 2019)."""

    def program(decoder: torch.nn.Linear, rows: int) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("flower", rows):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), sigma).to_event(1))

    def fit(seed: int) -> Diagnosis:
        x = torch.tensor(load_iris().data).float()
        x = (x - x.mean(0)) / x.std(0, correction=0)
        decoder = torch.nn.Linear(2, 4)
        with torch.no_grad():
            decoder.weight.copy_(torch.from_numpy(0.5 * np.random.default_rng(seed).standard_normal((4, 2))))
            decoder.bias.zero_()
        svi = ph.SVI(guide=ph.Amortized(hidden=()), num_steps=1500, optim=ph.Adam(learning_rate=0.02), engine="graph")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ph.PhlogistonWarning)
            model = ph.Model(program, decoder, len(x)).observe(x=x)
            return ph.train(model, svi, seed=seed, progress=False).diagnose()

    return fit


ANGLES = torch.arange(8, dtype=DTYPE) * (2.0 * np.pi / 8.0)
CENTRES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=-1)


def generator(modes: int) -> Fit:
    """A generator of a ring of eight narrow normals that reaches the first few of them only."""

    def program(count: int) -> None:
        weights = pyro.param("weights", torch.full((8,), 0.125, dtype=DTYPE))
        with pyro.plate("point", count):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(CENTRES[z], 0.01).to_event(1))

    def fit(seed: int) -> Diagnosis:
        data = ph.Model(program, 500).simulate(1, seed=seed)["x"][0]
        weights = torch.zeros(8, dtype=DTYPE)
        weights[:modes] = 1.0 / modes
        model = ph.Model(program, 500).observe(x=data).with_parameters({"weights": weights})
        return Fitted(model=model, method="adversarial", converged=True, stop_reason="done", seed=seed + 1).diagnose()

    return fit


def learned(loss: str, **settings: Any) -> Fit:
    """A small generator of the ring, trained against a critic of the same size."""

    def program(count: int, network: torch.nn.Module) -> None:
        pyro.module("generator", network)
        with pyro.plate("point", count):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.deterministic("x", network(z), event_dim=1)

    def fit(seed: int) -> Diagnosis:
        rng = np.random.default_rng(seed)
        data = blob(rng) if loss == "relativistic" else ring(rng)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator, critic = network(4, 2), network(2, 1)
        trainer = ph.Adversarial(critic=critic, loss=loss, batch_size=128, ema=0.0, engine="graph", **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ph.PhlogistonWarning)
            model = ph.Model(program, len(data), generator).observe(x=data)
            return ph.train(model, trainer, seed=seed, progress=False).diagnose()

    return fit


def network(width: int, out: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(width, 64),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Linear(64, 64),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Linear(64, out),
    )


def ring(rng: np.random.Generator) -> torch.Tensor:
    centres = CENTRES.numpy()[rng.integers(0, 8, 1000)]
    return torch.from_numpy(centres + 0.02 * rng.standard_normal((1000, 2))).float()


def blob(rng: np.random.Generator) -> torch.Tensor:
    root = np.linalg.cholesky([[1.0, 0.6], [0.6, 1.0]])
    return torch.from_numpy(rng.standard_normal((1000, 2)) @ root.T).float()


BAD: dict[str, Fit] = {
    "centred funnel, NUTS": centred_funnel,
    "two separated modes, 4 chains": separated_modes,
    "mean field, correlation 0.99": mean_field,
    "mean field by SVI, correlation 0.99": mean_field_svi,
    "importance, thin proposal": thin_proposal,
    "variance x 0.5": wrong_variance(0.5),
    "variance x 2": wrong_variance(2.0),
    "dropped Jacobian": of_density(-1.0),
    "wrong weight of a mode": mode_weight(0.5),
    "stuck chain": stuck_chain,
    "collapsed VAE": linear_vae(3.0),
    "collapsed generator, 1 mode of 8": generator(1),
    "generator without 3 modes of 8": generator(5),
    "collapsed GAN, trained": learned(
        "minimax", r1=0.0, r2=0.0, num_steps=400, final_rate=1.0, optim=FAST, critic_optim=ph.Adam(learning_rate=0.001)
    ),
    "GAN broken off early": learned(
        "non_saturating", r1=0.0, r2=0.0, num_steps=300, optim=ph.Adam(learning_rate=0.002)
    ),
}
HEALTHY: dict[str, Fit] = {
    "normal-normal, NUTS": lambda seed: run(normal_normal.model, "nuts", seed),
    "funnel non-centred, HMC": lambda seed: run(funnel.model, "hmc", seed, num_chains=16),
    "eight schools non-centred, NUTS 0.99": lambda seed: run(
        eight_schools.model, "nuts", seed, target_accept_prob=0.99
    ),
    "regression, NUTS": lambda seed: run(nig_regression.model, "nuts", seed),
    "mixture, NUTS": lambda seed: run(mixture.model, "nuts", seed),
    "PPCA, MH": lambda seed: run(ppca.model, "mh", seed, num_chains=16, num_steps=5),
    "gamma-Poisson, Gibbs": lambda seed: run(gamma_poisson.model, "gibbs", seed),
    "beta-binomial, importance": lambda seed: run(beta_binomial.model, "importance", seed),
    "eight schools, importance": lambda seed: run(eight_schools.model, "importance", seed, num_particles=5000),
    "beta-binomial, rejection": lambda seed: run(beta_binomial.model, "rejection", seed),
    "correlated normal, full-rank SVI": lambda seed: run(
        correlated(0.9), "svi", seed, guide="multivariate_normal", engine="graph"
    ),
    "two modes, right weights": mode_weight(0.7),
    "correlated normal, right": wrong_variance(1.0),
    "scale, right density": of_density(0.0),
    "VAE that uses its latents": linear_vae(0.5),
    "generator of all modes": generator(8),
    "GAN of a normal, trained": learned("relativistic", num_steps=2500),
}


Row = tuple[str, list[str]]  # verdict, what was found


def tally(fits: dict[str, Fit], seeds: int) -> dict[str, list[Row]]:
    """Verdicts of every fit, seed by seed."""
    found: dict[str, list[Row]] = {}
    for name, fit in fits.items():

        def verdict(seed: int, fit: Fit = fit) -> list[Any]:
            report = fit(seed)
            return [report.verdict, [check.name for check in report.checks if check.finding is not None]]

        found[name] = [(row[0], row[1]) for row in Kept("trust", name).rows(seeds, verdict)[:seeds]]
        print(*row_of(name, found[name]), flush=True)
    return found


def row_of(name: str, found: list[Row]) -> list[str]:
    counts = [sum(verdict == v for verdict, _ in found) for v in ("trust", "caution", "do not use")]
    named = [check for _, checks in found for check in checks]
    most = max(set(named), key=named.count) if named else ""
    return [f"| {name} | {counts[0]} | {counts[1]} | {counts[2]} | {most} |"]


def table(title: str, found: dict[str, list[Row]]) -> list[str]:
    heads = [
        f"{title}:",
        "",
        "| fit | trust | caution | do not use | what was found most often |",
        "|---|---|---|---|---|",
    ]
    return [*heads, *(line for name, rows in found.items() for line in row_of(name, rows)), ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="of every bad fit")
    parser.add_argument("--healthy", type=int, default=100, help="healthy seeds in all, shared out among the fits")
    parser.add_argument("--update", action="store_true", help="write into RESULTS.md")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs kept")
    arguments = parser.parse_args()
    if arguments.fresh:
        shutil.rmtree(ROOT / "runs" / "trust", ignore_errors=True)
    bad = tally(BAD, arguments.seeds)
    each = -(-arguments.healthy // len(HEALTHY))
    good = tally(HEALTHY, each)
    seen = sum(verdict != "trust" for rows in bad.values() for verdict, _ in rows)
    alarms = sum(verdict != "trust" for rows in good.values() for verdict, _ in rows)
    total_bad, total_good = len(BAD) * arguments.seeds, len(HEALTHY) * each
    lines = [
        "## Trust",
        "",
        *table(f"Known-bad fits, {arguments.seeds} seeds each", bad),
        *table(f"Healthy fits, {each} seeds each", good),
        "| | flagged | trusted |",
        "|---|---|---|",
        f"| bad ({total_bad}) | {seen} | {total_bad - seen} |",
        f"| healthy ({total_good}) | {alarms} | {total_good - alarms} |",
        "",
        f"False alarms: {alarms / total_good:.1%} (asked: at most 5 %).",
    ]
    print(*lines[-6:], sep="\n")
    if arguments.update:
        insert("trust", "benchmarks/trust.py", lines)
    sys.exit(0 if seen == total_bad and alarms <= 0.05 * total_good else 1)


if __name__ == "__main__":
    main()
