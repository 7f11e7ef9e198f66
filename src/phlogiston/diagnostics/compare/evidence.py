"""The evidence from the draws of a posterior, whatever method they come from."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.engine.densities.target import Target
from phlogiston.engine.program.isolate import generator, spawn
from phlogiston.errors import UnsupportedModel, one_of, problem
from phlogiston.inference.mcmc.random_walk import root_of
from phlogiston.inference.method import Needs, run_method
from phlogiston.inference.methods.importance import Importance
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior
from phlogiston.stats import arviz
from phlogiston.stats.bridge import bridge
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.moments import standard_error
from phlogiston.stats.weights import effective_sample_size, systematic_resample

Array = NDArray[np.float64]
_NEEDS = Needs(continuous="some", discrete="enumerable", proper_prior=True, density=True)
_MOST_DRAWS, _FEWEST_DRAWS = 20_000, 40


def evidence(
    posterior: Posterior, method: Literal["bridge", "importance"] = "bridge", *, seed: int | None = None
) -> Estimate:
    r"""The log evidence :math:`\log p(x)` from the draws of any posterior.

    "bridge": a normal with the mean and covariance of one half of the draws is bridged with the other half. The
    density is made symmetric first, as the mean of its values at :math:`\mu \pm L y` (Warp-III), which changes neither
    its constant nor its draws, up to a random sign; so skewness costs nothing. All of it on the unconstrained scale,
    with discrete latents summed out. The standard error counts the draws as what they are worth: it comes from the
    effective sample size of the terms themselves.

    "importance": importance sampling from a Student-t with the draws' moments, as ``ph.Importance(proposal=post)``.

    Args:
        posterior: with draws, weighted or not, and its model.
        method: "bridge" or "importance".
        seed: of proposals and signs; the run's by default.

    Raises:
        UnsupportedModel: a prior is improper, so that the evidence is defined up to a constant only; or a latent
            has no density.
        ValueError: there is no model, or too few draws.

    References:
        Meng and Schilling (2002), Warp bridge sampling, https://doi.org/10.1198/106186002457; Gronau et al. (2017),
        A tutorial on bridge sampling, https://arxiv.org/abs/1703.05984; Frühwirth-Schnatter (2004),
        https://doi.org/10.1111/j.1368-423X.2004.00125.x

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> post = ph.infer(ph.Model(program).observe(y=1.0), "nuts", seed=0, progress=False)
        >>> found = ph.evidence(post)
        >>> bool(abs(found.value + 1.823657) < 4 * found.se), found.se < 0.01
        (True, True)
    """
    one_of(("bridge", "importance"), method=method)
    if not isinstance(posterior, Posterior):
        raise TypeError(problem("evidence", found=type(posterior).__name__, expected="a posterior"))
    model = _model_with_an_evidence(posterior)
    seed = posterior.seed if seed is None else seed
    if method == "importance":
        found = run_method(Importance(proposal=posterior), model, seed=seed, progress=False).log_evidence
        assert found is not None
        return found
    target = model.target()
    rng = generator(spawn(seed, 10)[9])
    u, worth = _draws(posterior, target, rng)
    half = u.shape[1] // 2
    fit, rest = u[:, :half].reshape(-1, target.dim), u[:, half:]
    return _warped(target, fit, rest, worth, rng)


def _model_with_an_evidence(posterior: Posterior) -> Model:
    model = posterior.model
    if model is None:
        found = "a posterior without its model"
        raise ValueError(problem("evidence", found=found, expected="one", fix="ph.load(path, model=model)"))
    for site in model.structure.of("latent"):
        if site.improper:
            text = problem(
                f"evidence: site {site.name!r}",
                found="an improper flat prior, under which the evidence is defined up to a constant only",
                expected="a proper prior",
                fix=f'pyro.sample("{site.name}", dist.Normal(0.0, 10.0)), or compare by="loo"',
            )
            raise UnsupportedModel(text)
    unmet = _NEEDS.unmet(model.structure)
    if unmet is not None:
        able = ('"exact", ' if not model.structure.continuous else "") + '"importance" or "rejection"'
        raise UnsupportedModel(f"evidence: {unmet}; methods that estimate it as they go: {able}")
    return model


def _draws(posterior: Posterior, target: Target, rng: np.random.Generator) -> tuple[Array, float | None]:
    """Draws on the unconstrained scale, ``[chain, draw, D]``; what all are worth, unless they are chains."""
    total = posterior.num_chains * posterior.num_draws
    step = max(1, total // _MOST_DRAWS)
    values = {site.name: posterior.draws[site.name] for site in target.structure.continuous}
    worth: float | None = None
    if posterior.log_weights is not None:
        logs = posterior.log_weights.reshape(-1).double().numpy()
        worth = effective_sample_size(logs)
        picked = rng.permutation(systematic_resample(logs, min(total, _MOST_DRAWS), rng))
        values = {name: value.flatten(0, 1)[torch.from_numpy(picked)].unsqueeze(0) for name, value in values.items()}
    else:
        values = {name: value[:, ::step] for name, value in values.items()}
        if not posterior.is_chain:
            worth = min(posterior.figures.get("ess", math.inf), float(next(iter(values.values())).shape[1]))
    u = target.unconstrain(values).double().numpy()
    if u.shape[0] * u.shape[1] < _FEWEST_DRAWS or not np.isfinite(u).all():
        found = f"{u.shape[0] * u.shape[1]} draws" if np.isfinite(u).all() else "draws on the edge of their support"
        raise ValueError(problem("evidence", found=found, expected=f"at least {_FEWEST_DRAWS} draws within it"))
    return u, worth


def _warped(target: Target, fit: Array, rest: Array, worth: float | None, rng: np.random.Generator) -> Estimate:
    """Bridge between a standard normal and the symmetrised density in coordinates standardised by ``fit``."""
    centre, root = fit.mean(0), np.asarray(root_of(fit))
    standard = np.linalg.solve(root, (rest.reshape(-1, target.dim) - centre).T).T
    proposed: Array = rng.standard_normal((len(standard), target.dim))
    volume = float(np.log(np.diag(root)).sum())

    def log_ratio(y: Array) -> Array:
        both = np.concatenate([centre + y @ root.T, centre - y @ root.T])
        found = target.log_density(torch.from_numpy(both)).double().numpy()
        left, right = np.where(np.isnan(found), -np.inf, found).reshape(2, -1)
        normal = -0.5 * np.square(y).sum(1) - 0.5 * target.dim * math.log(2.0 * math.pi)
        return np.asarray(np.logaddexp(left, right) - math.log(2.0) + volume - normal)

    ours, theirs = log_ratio(np.asarray(standard)).reshape(rest.shape[:2]), log_ratio(proposed)
    count = float(ours.size)
    if worth is None:
        sizes = arviz.ess(rest, "mean") if rest.shape[1] >= 4 else np.array([count])
        effective = float(np.clip(np.nanmedian(sizes), 2.0, count))
    else:
        effective = min(max(worth / 2.0, 2.0), count)
    found = bridge(ours, theirs, effective / (effective + theirs.size))
    if not math.isfinite(found.log_ratio):
        return Estimate(-math.inf, math.inf)
    of_theirs = found.theirs.std() / (found.theirs.mean() * math.sqrt(theirs.size))
    if worth is None:
        of_ours = float(standard_error(found.ours, None, chains=True)) / found.ours.mean()
    else:
        of_ours = found.ours.std() / (found.ours.mean() * math.sqrt(effective))
    return Estimate(found.log_ratio, float(np.hypot(of_ours, of_theirs)))
