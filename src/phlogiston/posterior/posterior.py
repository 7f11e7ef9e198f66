"""``Posterior``: what every method returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.engine.program.isolate import generator
from phlogiston.errors import renamed
from phlogiston.model.model import Model
from phlogiston.posterior import arviz_groups, storage
from phlogiston.posterior.expectation import values_of, warn_of_no_mean
from phlogiston.posterior.labels import numbered
from phlogiston.posterior.plan import Plan
from phlogiston.posterior.predictive import predict
from phlogiston.posterior.predictive_checks import LooPit, PredictiveCheck, Statistic, compare, loo_pit
from phlogiston.posterior.tables import summary_table
from phlogiston.posterior.verdict import Diagnosis
from phlogiston.stats.elbo import Decomposition, decomposition_of
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.loo import Loo, loo
from phlogiston.stats.moments import Moments, moments, standard_error
from phlogiston.stats.weights import pareto_smooth

if TYPE_CHECKING:
    import pandas as pd

    from phlogiston.diagnostics.subject import Diagnostic
    from phlogiston.report.plots import Plots

Draws = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """Draws from a posterior with everything needed to judge them.

    Args:
        draws: site -> ``[chain, draw, *site shape]``, constrained, with deterministics and recovered discretes.
            Methods that do not run chains have one chain.
        method: the method's name.
        settings: the method's settings.
        is_chain: whether successive draws depend on each other (R-hat and ESS make sense).
        log_weights: unnormalised log importance weights ``[chain, draw]``, or None.
        stats: per draw, ``[chain, draw]``, in ArviZ's ``sample_stats`` names.
        log_evidence: log p(observed) in nats with its error, where the method estimates it.
        marginals: discrete site -> posterior probabilities ``[*site shape, states]``, where they are exact.
        figures: numbers about the run, such as "acceptance_rate", "pareto_k", "ess".
        model: the model; None in a posterior loaded without one.
        seed: of the run.
        seconds: of the run, compilation included.
        engine: the tier that evaluated the program.
        warnings: what was warned of.
        interrupted: whether the run was stopped by hand.
        predictions: predictive draws kept with it, by group and site.
        state: of the chains' samplers, block by block: what ``infer(..., resume_from=posterior)`` goes on from.
        history: curve -> one number per step, where the method optimises.
        stop_reason: why that ended, in words.
        plan: what ``"auto"`` tried, with reasons and verdicts; None where the method was chosen by hand.
    """

    draws: Draws
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_chain: bool = False
    log_weights: torch.Tensor | None = None
    stats: Draws = field(default_factory=dict)
    log_evidence: Estimate | None = None
    marginals: Draws = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    model: Model | None = None
    seed: int | None = None
    seconds: float = 0.0
    engine: str = ""
    warnings: tuple[str, ...] = ()
    interrupted: bool = False
    predictions: Mapping[str, Draws] = field(default_factory=dict)
    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    history: Mapping[str, np.ndarray] = field(default_factory=dict)
    stop_reason: str = ""
    plan: Plan | None = None

    @property
    def converged(self) -> bool | None:
        """Whether an optimisation met its own rule for stopping; None for methods that do not optimise."""
        return bool(self.figures["converged"]) if "converged" in self.figures else None

    @property
    def elbo(self) -> Estimate | None:
        """E_q[log p(x, z) - log q(z)] with its standard error, where the draws come from an approximation q."""
        return None if self.decomposition is None else self.decomposition.elbo

    @property
    def gap(self) -> Estimate | None:
        """KL[q, p(z|x)] = log p(x) - ELBO: what the approximation q misses, in nats, with its standard error."""
        return None if self.decomposition is None else self.decomposition.gap

    @property
    def decomposition(self) -> Decomposition | None:
        """The evidence as ELBO + KL, and the ELBO both ways; prints as three lines. None for methods without a q."""
        if "kl_se" not in self.figures or self.log_evidence is None:
            return None
        return decomposition_of(self.figures, self.log_evidence)

    @property
    def num_chains(self) -> int:
        """Chains (one for methods that do not run chains)."""
        return int(next(iter(self.draws.values())).shape[0])

    @property
    def num_draws(self) -> int:
        """Draws of each chain."""
        return int(next(iter(self.draws.values())).shape[1])

    @cached_property
    def weights(self) -> torch.Tensor | None:
        """Pareto-smoothed weights that sum to one, ``[chain, draw]``; None for draws that count the same."""
        if self.log_weights is None:
            return None
        smoothed, _ = pareto_smooth(self.log_weights.reshape(-1).numpy())
        return torch.from_numpy(np.exp(smoothed)).reshape(self.log_weights.shape)

    def samples(self, *, combined: bool = True) -> dict[str, torch.Tensor]:
        """The draws as plain tensors: ``[chain * draw, ...]``, or ``[chain, draw, ...]`` if not ``combined``."""
        return {name: value.flatten(0, 1) if combined else value for name, value in self.draws.items()}

    def moments(self, site: str) -> Moments:
        """Mean and standard deviation of a site, with Monte Carlo errors."""
        self._require_sites("moments", (site,))
        return moments(self.draws[site].numpy(), self._numpy_weights, chains=self.is_chain)

    def _require_sites(self, verb: str, sites: tuple[str, ...]) -> None:
        for site in sites:
            if site not in self.draws:
                raise arviz_groups.unknown_site(verb, site, self.draws)

    @property
    def _numpy_weights(self) -> np.ndarray | None:
        return None if self.weights is None else self.weights.numpy()

    def expect(self, f: str | Callable[[dict[str, torch.Tensor]], torch.Tensor]) -> Estimate:
        r"""Posterior expectation :math:`E[f(z) \mid x]` with its Monte Carlo standard error.

        Args:
            f: a site's name, or a function of *one* draw, a dictionary site -> tensor of the site's shape,
                that returns a tensor (a boolean one for a probability).

        Returns:
            value and standard error, floats or arrays of the shape that ``f`` returns.

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> post = ph.infer(ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))), "importance", seed=0)
            >>> bool(abs(post.expect(lambda draw: draw["z"] > 0).value - 0.5) < 0.02)
            True
        """
        if isinstance(f, str):
            self._require_sites("expect", (f,))
        values = values_of(f, self.draws).numpy().astype(float)
        if not isinstance(f, str):  # the tails of the sites themselves are judged by diagnose
            warn_of_no_mean(values, self._numpy_weights)
        error = standard_error(values, self._numpy_weights, chains=self.is_chain)
        if self._numpy_weights is None:
            mean = values.mean((0, 1))
            resampled_from = self.figures.get("ess")
            if resampled_from and not self.is_chain:  # resampled from weights: their own error comes on top
                error = np.sqrt(error**2 + values.reshape(-1, *values.shape[2:]).var(0) / resampled_from)
        else:
            mean = (self._numpy_weights.reshape(*values.shape[:2], *(1,) * (values.ndim - 2)) * values).sum((0, 1))
        return Estimate(mean, error)

    def predict(
        self,
        *args: Any,
        sites: str | tuple[str, ...] | None = None,
        prior: bool = False,
        seed: int | None = None,
        coords: Mapping[str, Sequence[Any]] | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """Predictive draws of the observed sites, for the same inputs or for new ones of any size.

        Groups that the model was fitted to keep what was learned of them, whatever the number of groups now. They are
        known by their coordinate label where the model has labels and ``coords`` gives the new ones, else by
        their index. New groups are drawn from the population, that is from their prior given the other latents. The
        rows of a plate that holds observations are new where an input that runs along it has changed.

        Args:
            *args: new inputs of the program; none for those that the model has.
            sites: the sites to return; all observed ones by default.
            prior: predict from the prior instead of from the posterior.
            seed: of the draws; the run's seed by default.
            coords: labels of the new groups by plate, ``{"school": ["A", "C", "new"]}``.
            **kwargs: new inputs by keyword.

        Returns:
            site -> ``[chain, draw, *site shape]``. The library un-observes the sites itself. Weighted draws are
            resampled first, so every predictive draw counts the same.

        Raises:
            UnknownName: there is no such site, or no such dimension in ``coords``.
            ModelError: a latent has another shape now, and not along a plate.

        Example:
            >>> def program(group, num_groups):
            ...     with pyro.plate("groups", num_groups):
            ...         a = pyro.sample("a", dist.Normal(0.0, 10.0))
            ...     with pyro.plate("rows", len(group)):
            ...         pyro.sample("y", dist.Normal(a[group], 1.0))
            >>> group = torch.tensor([0, 0, 1, 1])
            >>> model = ph.Model(program, group, 2).observe(y=[5.0, 5.2, -4.8, -5.0])
            >>> post = ph.infer(model, "laplace", seed=0)
            >>> new = post.predict(torch.tensor([0, 1, 2]), 3)["y"].flatten(0, 1)
            >>> new.mean(0)[:2].round().tolist(), bool(new[:, 2].std() > 5.0)
            ([5.0, -5.0], True)
        """
        model, chosen = self._model("predict"), self.seed if seed is None else seed
        wanted = _names(sites) or tuple(site.name for site in model.structure.observable)
        if args or kwargs:
            model = model.unobserved().with_inputs(*args, **kwargs)
        model = model if coords is None else model.with_coords(coords)
        draws = {name: value for name, value in self.draws.items() if not prior}
        models, shape = (self._model("predict"), model), (self.num_chains, self.num_draws)
        return predict(draws, self.log_weights, models, shape, sites=wanted, seed=chosen)

    def with_predictions(self, *, prior: bool = True) -> Posterior:
        """The same with posterior predictive (and prior predictive) draws among its groups."""
        made: dict[str, Draws] = {"posterior_predictive": self.predict()}
        if prior and not any(site.improper for site in self._model("predict").structure.of("latent")):
            made["prior_predictive"] = self.predict(prior=True)
        return replace(self, predictions={**self.predictions, **made})

    def pointwise_log_likelihood(self) -> dict[str, torch.Tensor]:
        """Pointwise log likelihood of each observed site, ``[chain, draw, *batch shape]``, in nats."""
        model = self._model("pointwise_log_likelihood")
        return model.target().log_likelihood({s.name: self.draws[s.name] for s in model.structure.of("latent")})

    def predictive_check(
        self, statistic: Statistic, site: str | None = None, *, prior: bool = False, seed: int | None = None
    ) -> PredictiveCheck:
        r"""Posterior (or prior) predictive check: does the model predict data that are like these in some respect?

        Args:
            statistic: "mean", "sd", "min", "max", "median", "zeros", or a function of one data set, a tensor of the
                site's shape, that returns a number or several.
            site: the observed site; may be left out if there is one.
            prior: whether to predict from the prior.
            seed: of the predictions; the run's seed by default.

        Returns:
            the statistic of the data among those of the predictions, with ``.p_value`` and ``.plot()``.

        Raises:
            UnknownName: no statistic or observed site has that name.
            ValueError: there is no model, or ``site`` must be named.

        References:
            Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness, Statistica Sinica 6

        Example:
            >>> def program():
            ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
            ...     with pyro.plate("i", 4):
            ...         pyro.sample("y", dist.Normal(mu, 1.0))
            >>> post = ph.infer(ph.Model(program).observe(y=[0.1, 0.4, -0.2, 6.0]), "importance", seed=0)
            >>> post.predictive_check("sd").extreme, post.predictive_check("min").extreme
            (True, False)
        """
        name = self._observed_site("predictive_check", site)
        model = self._model("predictive_check")
        predicted = self.predict(sites=name, prior=prior, seed=seed)[name].flatten(0, 1)
        source = "prior predictive" if prior else "posterior predictive"
        return compare(statistic, name, model.structure.observations[name], predicted, source)

    def loo_pit(self, site: str | None = None) -> LooPit:
        """Where each observation falls in its leave-one-out predictive distribution: uniform where it is calibrated.

        Args:
            site: the observed site, of single numbers; may be left out if there is one.
        """
        name = self._observed_site("loo_pit", site)
        model = self._model("loo_pit")
        known = model.structure[name]
        if known.event_dim:
            raise ValueError(f"loo_pit: found site {name!r}, whose observations are vectors; expected single numbers")
        shape = (self.num_chains, self.num_draws)
        predicted = predict(self.draws, None, (model, model), shape, sites=(name,), seed=self.seed)[name]
        seen = np.broadcast_to(model.structure.observations[name].numpy(), predicted.shape[2:]).astype(float)
        keep = np.ones(seen.shape, bool) if known.missing is None else ~known.missing.events(0).numpy()
        rows = self.pointwise_log_likelihood()[name].flatten(0, 1).numpy()[:, keep]
        weights = None if self.log_weights is None else self.log_weights.reshape(-1).numpy()
        flat = predicted.flatten(0, 1).double().numpy()[:, keep]
        return loo_pit(name, seen[keep], flat, rows, weights, generator(self.seed))

    def _observed_site(self, verb: str, site: str | None) -> str:
        """The observed site that is meant: the one named, or the only one."""
        known = [s.name for s in self._model(verb).structure.observable]
        if site is None and len(known) != 1:
            listing = f" ({', '.join(known)})" if known else ""
            raise ValueError(f"{verb}: found {len(known)} observed sites{listing}; expected {verb}(site=...)")
        if site is not None and site not in known:
            raise arviz_groups.unknown_site(verb, site, dict.fromkeys(known))
        return site or known[0]

    def loo(self, site: str | None = None) -> Loo:
        """Leave-one-out expected log predictive density of an observed site (the only one by default)."""
        name = self._observed_site("loo", site)
        values, known = self.pointwise_log_likelihood()[name].numpy(), self._model("loo").structure[name]
        if known.missing is not None:
            values = values[..., ~known.missing.events(known.event_dim).numpy()]
        return loo(values, None if self.log_weights is None else self.log_weights.numpy())

    def diagnose(self, *, thorough: bool = True, extra: Iterable[str | Diagnostic] = ()) -> Diagnosis:
        r"""Whether to believe these draws: every check with its number and limit, and a verdict.

        R-hat 1.01, ESS 100 per chain, divergences with where they happen, tree depth, E-BFMI 0.3, acceptance, stuck
        chains, chains in different modes; Pareto k-hat against :math:`\min(1 - 1/\log_{10} S, 0.7)`; and against the
        model: the score and Stein identities of its density, the weight of each mode, prior-data conflict.

        Args:
            thorough: whether the model is evaluated too; ``infer`` warns of the rest by itself.
            extra: further diagnostics: objects with the two methods of ``ph.Diagnostic``.

        Returns:
            the findings, the gravest first, in a ``Diagnosis`` that is empty where nothing is wrong.
        """
        from phlogiston.diagnostics.diagnose import judge

        return judge(self, thorough=thorough, extra=extra)

    def summary(self, sites: str | tuple[str, ...] | None = None) -> pd.DataFrame:
        """One row per component: mean, sd, their Monte Carlo errors, quantiles, and for chains ESS and R-hat.

        Of a site that was observed in part, only the missing entries are listed.
        """
        self._require_sites("summary", _names(sites))
        chosen = {name: self.draws[name].numpy() for name in _names(sites) or self.draws}
        labels, observed = (numbered, {}) if self.model is None else (self.model.labels, self.model.entries_observed)
        return summary_table(chosen, self._numpy_weights, labels, chains=self.is_chain, observed=observed)

    @property
    def data(self) -> Any:
        """All groups for ArviZ: ``InferenceData`` on ArviZ 0.x, ``xarray.DataTree`` on 1.x."""
        return arviz_groups.container(self)

    @property
    def plot(self) -> Plots:
        """Plots: ``.plot.trace()``, ``.plot.marginals()``, ``.plot.pair()``, ``.plot.predictive()``."""
        from phlogiston.report.plots import Plots

        return Plots(self)

    def report(self, path: str | Path, *, command: str = "") -> Path:
        """Write one self-contained HTML page that a colleague can check, offline and on a phone.

        The verdict and every check first, then the model's graph, summary, traces and ranks, energy, pairs with
        divergences, weights, predictive checks, leave-one-out, evidence, and what it takes to do it again.

        Args:
            path: of the page; folders are made.
            command: what was run, where the call of ``infer`` does not say it.

        Returns:
            the path.
        """
        from phlogiston.report.pages.posterior_page import write_posterior

        return write_posterior(self, path, command=command)

    def save(self, path: str | Path) -> Path:
        """Write everything but the model to one netCDF file; ``ph.load`` reads it. No code is stored."""
        return storage.save(self, Path(path))

    def __repr__(self) -> str:
        evidence = f", log evidence {self.log_evidence}" if self.log_evidence is not None else ""
        sites = ", ".join(f"{name}{list(v.shape[2:]) or ''}" for name, v in self.draws.items())
        partial = ", interrupted" if self.interrupted else ""
        return f"Posterior({self.method}: {self.num_chains} x {self.num_draws} draws of {sites}{evidence}{partial})"

    log_likelihood = renamed("log_likelihood", "pointwise_log_likelihood")
    check = renamed("check", "predictive_check")

    def _model(self, verb: str) -> Model:
        if self.model is None:
            raise ValueError(
                f"{verb}: found a posterior without its model; expected one; write: ph.load(path, model=model)"
            )
        return self.model


def _names(sites: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (sites,) if isinstance(sites, str) else tuple(sites or ())
