"""Models of the same data: evidence and leave-one-out side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.diagnostics.compare.evidence import evidence
from phlogiston.diagnostics.compare.same_data import model_of, named, require_same_data
from phlogiston.engine.program.isolate import as_int, generator, spawn
from phlogiston.errors import UnsupportedModel, one_of, problem
from phlogiston.posterior.compatibility import mismatch
from phlogiston.posterior.posterior import Posterior
from phlogiston.stats import arviz
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.loo import Loo, loo
from phlogiston.stats.weights import systematic_resample

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
By = Literal["both", "evidence", "loo"]
_FEW, _CLEAR = 30, 2.0
_UNSURE = 0.5  # a log evidence with a larger standard error decides little


@dataclass(frozen=True)
class Comparison:
    """Models side by side; prints as a table.

    Args:
        names: of the models, the best first.
        log_evidence: of each; None where it has none.
        loo: of each; None where it has none.
        weights: stacking weights, which sum to one; empty without leave-one-out.
        warnings: what makes the comparison less than it looks.
    """

    names: tuple[str, ...]
    log_evidence: Mapping[str, Estimate | None]
    loo: Mapping[str, Loo | None]
    weights: Mapping[str, float]
    warnings: tuple[str, ...]

    def log_bayes_factor(self, name: str, other: str) -> Estimate:
        """Log of how much more probable one model makes the data than another, with its Monte Carlo error.

        Raises:
            ValueError: one of them has no evidence.
        """
        one, two = self.log_evidence[name], self.log_evidence[other]
        if one is None or two is None:
            found = f"no evidence for {name if one is None else other!r}"
            raise ValueError(problem("log_bayes_factor", found=found, expected="one; see .warnings"))
        return Estimate(float(one.value) - float(two.value), float(np.hypot(one.se, two.se)))

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each model that has an evidence; all are equally probable a priori."""
        known = {name: float(found.value) for name, found in self.log_evidence.items() if found is not None}
        total = float(np.logaddexp.reduce(list(known.values()))) if known else 0.0
        return {name: math.exp(value - total) for name, value in known.items()}

    def elpd_difference(self, name: str, other: str) -> Estimate:
        """How much better one model predicts left-out data, with its standard error over observations."""
        one, two = self.loo[name], self.loo[other]
        if one is None or two is None:
            raise ValueError(problem("elpd_difference", found="no leave-one-out", expected="one; see .warnings"))
        difference = one.pointwise - two.pointwise
        return Estimate(float(difference.sum()), float(np.sqrt(difference.size * difference.var())))

    def summary(self) -> pd.DataFrame:
        """A table with one row per model, the best first; differences are from the best by each measure."""
        import pandas as pd

        rows, probabilities = [], self.probabilities
        best_z = max(probabilities, key=lambda name: probabilities[name], default="")
        best_elpd = max((n for n in self.names if self.loo[n]), key=lambda n: _elpd(self.loo[n]), default="")
        for name in self.names:
            row: dict[str, float] = {}
            found, left_out = self.log_evidence[name], self.loo[name]
            if probabilities:
                row["log evidence"] = float(found.value) if found else math.nan
                row["se"] = float(found.se) if found else math.nan
                row["log BF"] = float(self.log_bayes_factor(name, best_z).value) if found else math.nan
                row["P(model)"] = probabilities.get(name, math.nan)
            if best_elpd:
                difference = self.elpd_difference(name, best_elpd) if left_out else Estimate(math.nan, math.nan)
                row["elpd_loo"] = left_out.elpd if left_out else math.nan
                row["d_elpd"], row["d_se"] = float(difference.value), float(difference.se)
                row["weight"] = self.weights.get(name, math.nan)
                row["bad k"] = float((left_out.khat > left_out.limit).sum()) if left_out else math.nan
            rows.append(row)
        return pd.DataFrame(rows, index=list(self.names))

    def __str__(self) -> str:
        table = self.summary().to_string(float_format=lambda x: f"{x:.4g}" if abs(x) < 1 else f"{x:.2f}", na_rep="-")
        return "\n".join([table, *(f"! {line}" for line in self.warnings)])


def compare(
    posteriors: Mapping[str, Posterior] | Sequence[Posterior], *, by: By = "both", seed: int | None = None
) -> Comparison:
    r"""Models of the same data by evidence and by leave-one-out prediction, side by side.

    The evidence :math:`p(x)` asks how probable a model made the data before it saw them, and depends on the priors;
    :math:`\sum_i \log p(x_i \mid x_{-i})` asks how well it predicts the rest once it has seen most. They may disagree.
    The evidence is the method's own, or is found by bridge sampling from the draws.

    Args:
        posteriors: by name, or in a list; of the same data.
        by: "evidence", "loo", or "both", where what cannot be had becomes a warning instead of an error.
        seed: of bridge sampling.

    Returns:
        evidences, Bayes factors, probabilities of the models, elpd with differences, and stacking weights.

    Raises:
        ValueError: the posteriors are of different data, have no model, or are fewer than two; or neither measure can
            be had.
        UnsupportedModel: the measure that was asked for cannot be had: an improper prior has no evidence, a model
            without an observed site no leave-one-out.

    References:
        Kass and Raftery (1995), https://doi.org/10.1080/01621459.1995.10476572; Vehtari, Gelman and Gabry (2017),
        https://arxiv.org/abs/1507.04544; Yao, Vehtari, Simpson and Gelman (2018), https://arxiv.org/abs/1704.02030

    Example:
        >>> def wide():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("i", 5):
        ...         pyro.sample("y", dist.Normal(mu, 1.0))
        >>> def zero():
        ...     scale = pyro.sample("scale", dist.HalfNormal(1.0))
        ...     with pyro.plate("i", 5):
        ...         pyro.sample("y", dist.Normal(0.0, scale))
        >>> y = [4.1, 3.9, 4.6, 5.0, 3.2]
        >>> fits = {f.__name__: ph.infer(ph.Model(f).observe(y=y), "smc", seed=0, progress=False) for f in (wide, zero)}
        >>> ph.compare(fits).names[0]
        'wide'
    """
    one_of(("both", "evidence", "loo"), by=by)
    posts, warnings = named("compare", posteriors), list[str]()
    require_same_data("compare", posts)
    return _compared(posts, by, spawn(seed, len(posts)), warnings)


def _compared(
    posts: Mapping[str, Posterior], by: By, seeds: list[np.random.SeedSequence], warnings: list[str]
) -> Comparison:
    evidences: dict[str, Estimate | None] = dict.fromkeys(posts)
    scores: dict[str, Loo | None] = dict.fromkeys(posts)
    rows: dict[str, Array] = {}
    for (name, post), seed in zip(posts.items(), seeds, strict=True):
        if by != "loo":
            evidences[name] = _evidence(name, post, as_int(seed), by, warnings)
        if by != "evidence":
            scores[name], rows[name] = _loo(name, post, by, warnings, seed)
    if all(found is None for found in [*evidences.values(), *scores.values()]):
        found = "; ".join(warnings)
        raise ValueError(problem("compare", found=found, expected="evidence or leave-one-out of two models"))
    scored = {name: rows[name] for name, found in scores.items() if found is not None}
    weights = arviz.stacking(scored) if len(scored) > 1 else {}
    names = sorted(posts, key=lambda n: (_value(evidences[n]), _elpd(scores[n])), reverse=True)
    result = Comparison(tuple(names), evidences, scores, weights, ())
    return replace(result, warnings=(*warnings, *_doubts(posts, result)))


def _value(found: Estimate | None) -> float:
    return -math.inf if found is None else float(found.value)


def _elpd(found: Loo | None) -> float:
    return -math.inf if found is None else found.elpd


def _evidence(name: str, post: Posterior, seed: int, by: By, warnings: list[str]) -> Estimate | None:
    """The method's own, or that of bridge sampling; None with a warning where neither can be had."""
    try:
        found = post.log_evidence
        if any(site.improper for site in model_of("compare", name, post).structure.of("latent")):
            found = None
        if found is None or found.kind == "lower bound":
            found = evidence(post, seed=seed)
        return found
    except (UnsupportedModel, ValueError) as error:
        if by == "evidence":
            raise
        warnings.append(f"{name}: no evidence, as {error}")
        return None


def _loo(
    name: str, post: Posterior, by: By, warnings: list[str], seed: np.random.SeedSequence
) -> tuple[Loo | None, Array]:
    """Leave-one-out over all observed sites, and the pointwise log likelihood of draws that count the same."""
    structure = model_of("compare", name, post).structure
    if not structure.observable:
        text = problem(
            f"compare: {name!r}",
            found="no observed site, so no pointwise likelihood to leave one out of",
            expected="observations as sites and not as factors",
            fix='pyro.sample("y", ..., obs=y)',
        )
        if by == "loo":
            raise UnsupportedModel(text)
        warnings.append(text)
        return None, np.empty(0)
    parts = []
    for site, value in post.pointwise_log_likelihood().items():
        missing = structure[site].missing
        flat = value.reshape(*value.shape[:2], -1)
        if missing is not None:
            flat = value[..., ~missing.events(structure[site].event_dim)].reshape(*value.shape[:2], -1)
        parts.append(flat)
    rows = torch.cat(parts, -1).double().numpy()
    weights = None if post.log_weights is None else post.log_weights.double().numpy()
    found = loo(rows, weights)
    if weights is not None:
        picked = systematic_resample(weights.reshape(-1), weights.size, generator(seed))
        rows = rows.reshape(weights.size, -1)[picked][None]
    if factors := structure.of("factor"):
        warnings.append(f"{name}: factor {factors[0].name!r} is part of the evidence and not of leave-one-out")
    return found, rows


def _doubts(posts: Mapping[str, Posterior], result: Comparison) -> list[str]:
    """What the numbers do not say by themselves."""
    names = [name for name in result.names if result.loo[name] is not None]
    scored = sorted(names, key=lambda name: -_elpd(result.loo[name]))
    known = [name for name in result.names if result.log_evidence[name] is not None]
    each = [doubt for name, post in posts.items() for doubt in _doubts_of_one(name, post, result)]
    return [*_same_models(posts), *each, *_unclear_elpd(scored, result), *_unclear_evidence(known, scored, result)]


def _same_models(posts: Mapping[str, Posterior]) -> list[str]:
    doubts = []
    for (one, first), (other, second) in itertools.combinations(posts.items(), 2):
        if first.model is not None and not mismatch(first.model, second, other):
            doubts.append(f"{one} and {other} are of one model: what tells them apart is chance; methods: ph.agree")
    return doubts


def _doubts_of_one(name: str, post: Posterior, result: Comparison) -> list[str]:
    """Reasons to doubt the numbers of one posterior by themselves."""
    doubts = [f"{name}: interrupted, so fewer draws than were asked for"] if post.interrupted else []
    doubts += [f"{name}: {line}" for line in post.warnings]
    found, left_out = result.log_evidence[name], result.loo[name]
    if found is not None and float(found.se) > _UNSURE:
        doubts.append(f"{name}: a log evidence with standard error {float(found.se):.2f} says little; use ph.SMC")
    if left_out is not None and (bad := int((left_out.khat > left_out.limit).sum())):
        doubts.append(
            f"{name}: leave-one-out is not to be trusted for {bad} of {left_out.khat.size} observations "
            f"(k-hat above {left_out.limit:.2f}); fit without each of them"
        )
    return doubts


def _unclear_elpd(scored: list[str], result: Comparison) -> list[str]:
    """Whether leave-one-out tells the best model from the next; ``scored`` has the best first."""
    doubts = []
    if len(scored) > 1:
        size = result.loo[scored[0]].pointwise.size  # type: ignore[union-attr]
        gap = result.elpd_difference(scored[0], scored[1])
        if size < _FEW:
            doubts.append(f"{size} observations are few: standard errors of elpd differences are too small below 100")
        if float(gap.value) < _CLEAR * float(gap.se):
            doubts.append(f"leave-one-out does not tell {scored[0]} from {scored[1]}: they differ by {gap} nats")
    return doubts


def _unclear_evidence(known: list[str], scored: list[str], result: Comparison) -> list[str]:
    """Whether the evidence tells the best model from the next, and prefers the one that leave-one-out prefers."""
    doubts = []
    if len(known) > 1:
        factor = result.log_bayes_factor(known[0], known[1])
        if float(factor.value) < _CLEAR * float(factor.se):
            doubts.append(f"the evidence of {known[0]} is not above that of {known[1]} beyond its Monte Carlo error")
        if scored and known[0] != scored[0]:
            doubts.append(
                f"evidence prefers {known[0]} and leave-one-out {scored[0]}: the first also weighs the priors"
            )
    return doubts
