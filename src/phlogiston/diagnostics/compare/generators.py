"""Generators of the same data, however they were trained, judged by the same measures on one page."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.diagnostics.checks.generators import check_coverage
from phlogiston.engine.program.isolate import as_int, generator, spawn
from phlogiston.errors import ModelError, SettingError, UnknownName, WeightWarning, did_you_mean, positive_int, problem
from phlogiston.inference.infer import infer
from phlogiston.inference.methods.ais import AIS
from phlogiston.model.model import Model
from phlogiston.model.noise import Noise, measured
from phlogiston.model.resize import generated
from phlogiston.posterior.verdict import Diagnosis
from phlogiston.stats.divergence import C2st, Fidelity, c2st, fidelity, frechet, kid
from phlogiston.stats.divergence.points import FEWEST, Features, array_of, some
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.images import sharpness
from phlogiston.training.fitted import Fitted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
DATA = "data"  # the row of what a perfect generator would score
_SHOWN = 24


@dataclass(frozen=True, eq=False)
class Judgement:
    """How one generator's draws compare with data that it was not trained on.

    Args:
        draws: ``[N, ...]``.
        c2st: how well a classifier tells them from the data.
        kid: kernel distance, of features where there are any.
        frechet: distance of the normals with their moments, of the same.
        fidelity: precision, recall, density and coverage, of the same.
        sharpness: of images, the variance of their Laplacian; None for other data.
        classes: how many draws a classifier puts into each class; empty without one.
        log_likelihood: of each measured datum, ``[num_images]``; empty where it was not asked for.
        likelihood_errors: Monte Carlo errors of these.
        check: whether the draws come near all of the data.
    """

    draws: Array
    c2st: C2st
    kid: Estimate
    frechet: float
    fidelity: Fidelity
    sharpness: Estimate | None
    classes: NDArray[np.int64]
    log_likelihood: Array
    likelihood_errors: Array
    check: Any

    @property
    def mean_log_likelihood(self) -> Estimate | None:
        """The mean log likelihood in nats per datum, with its standard error over data."""
        n = self.log_likelihood.size
        if not n:
            return None
        spread = self.log_likelihood.std(ddof=1) / math.sqrt(n) if n > 1 else 0.0
        return Estimate(float(self.log_likelihood.mean()), float(spread))


@dataclass(frozen=True, eq=False)
class GeneratorComparison:
    """Generators side by side; prints as a table.

    Args:
        judgements: by name; under "data" stand other real data, if they were given: what a perfect generator scores.
        data: that they were judged against.
        class_shares: of these data, by the same classifier; empty without one.
    """

    judgements: Mapping[str, Judgement]
    data: Array
    class_shares: Array

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the generators."""
        return tuple(name for name in self.judgements if name != DATA)

    def likelihood_difference(self, name: str, other: str) -> Estimate:
        """How many nats a datum one generator gives more than another, pair by pair, with the error over data.

        Raises:
            ValueError: likelihoods were not asked for.
        """
        one, two = self.judgements[name].log_likelihood, self.judgements[other].log_likelihood
        if not one.size or not two.size:
            raise ValueError(
                problem("likelihood_difference", found="no likelihoods", expected="compare_generators(..., noise=0.1)")
            )
        gap = one - two
        return Estimate(float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(gap.size)) if gap.size > 1 else 0.0)

    def summary(self) -> pd.DataFrame:
        """A table with one row per generator; "data" is the row of a perfect one."""
        import pandas as pd

        rows = []
        for found in self.judgements.values():
            near = found.fidelity
            row: dict[str, Any] = {
                "C2ST": float(found.c2st.accuracy.value),
                "KID": float(found.kid.value),
                "KID se": float(found.kid.se),
                "Fréchet": found.frechet,
                **{n: float(getattr(near, n).value) for n in ("precision", "recall", "density", "coverage")},
            }
            if found.sharpness is not None:
                row["sharpness"] = float(found.sharpness.value)
            if found.classes.size:
                row["classes"], row["KL of classes"] = int((found.classes > 0).sum()), self.class_divergence(found)
            if (likelihood := found.mean_log_likelihood) is not None:
                row["log lik."], row["ll se"] = float(likelihood.value), float(likelihood.se)
            rows.append(row)
        return pd.DataFrame(rows, index=list(self.judgements))

    def class_divergence(self, found: Judgement) -> float:
        """KL from a generator's shares of the classes to the data's, in nats; infinite for classes data lack."""
        shares = found.classes / found.classes.sum()
        held = shares > 0
        with np.errstate(divide="ignore"):
            return float((shares[held] * np.log(shares[held] / self.class_shares[held])).sum())

    def __str__(self) -> str:
        text: str = self.summary().to_string(float_format=lambda x: f"{x:.3g}", na_rep="-")
        return text

    def plot(self) -> Figure:
        """Draws of each generator under some of the data, and the measures of all."""
        shown = {name: found.draws[:_SHOWN] for name, found in self.judgements.items() if name != DATA}
        from phlogiston.report.plots.generators import picture_of

        return picture_of({DATA: self.data[:_SHOWN], **shown}, self.summary())

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page: whether each generator covers the data, the table, the picture.

        Args:
            path: of the page; folders are made.
        """
        checks = Diagnosis(tuple(found.check for name, found in self.judgements.items() if name != DATA))
        from phlogiston.report.pages.generators_page import write_generators

        return write_generators(checks, self.summary(), self.class_counts(), self.plot(), path)

    def class_counts(self) -> pd.DataFrame | None:
        """How many rows a classifier puts into each class: a row a generator, and what the data have; None without."""
        import pandas as pd

        if not self.class_shares.size:
            return None
        rows = {name: found.classes for name, found in self.judgements.items()}
        expected = np.round(self.class_shares * len(self.data)).astype(int)
        return pd.DataFrame({"held-out data": expected, **rows}).T


def compare_generators(
    generators: Mapping[str, Fitted | Model | Any],
    data: Any,
    *,
    site: str = "x",
    other_data: Any = None,
    features: Features | None = None,
    classify: Callable[[torch.Tensor], Any] | None = None,
    postprocess: Callable[[torch.Tensor], Any] | None = None,
    noise: Noise | None = None,
    num_images: int = 10,
    method: Any = None,
    seed: int | None = None,
) -> GeneratorComparison:
    r"""Judge generators of the same data by the same measures: a VAE beside a GAN, on one page.

    As many draws as there are data are compared with data that no generator was trained on: by a classifier (C2ST), by
    distances in a feature space, by fidelity and coverage, by sharpness where they are images. With ``noise`` every
    generator is a prior of what is measured, :math:`y \sim \mathrm{Normal}(G(z), \sigma)`, and
    :math:`\log p(y)` of some data is estimated by annealed importance sampling: the same density for all, however they
    were trained.

    Args:
        generators: by name: what ``ph.train`` returned, a ``Model`` with its parameters, or draws ``[N, ...]``.
        data: ``[N, ...]``, held out of training.
        site: the output that is compared.
        other_data: more real data, such as those of training: judged as "data", they are a perfect generator.
        features: of chunks of rows, as tensors, one row for each: KID, Fréchet and fidelity are judged there.
        classify: the same, to scores of classes ``[n, K]``; draws are counted by the largest.
        postprocess: what is done to draws before they are judged, such as rounding to the levels that data have.
        noise: as in ``ph.measured``; None for no likelihoods. Draws by value have none.
        num_images: data whose likelihood is estimated.
        method: that estimates it; None for ``ph.AIS()``.
        seed: of draws, picks and networks.

    Raises:
        ModelError: draws and data differ in shape.
        UnknownName: a generator has no such site.
        SettingError: no generator, or fewer than eight data.

    References:
        Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based generative models,
        https://arxiv.org/abs/1611.04273; Lopez-Paz and Oquab (2017), https://arxiv.org/abs/1610.06545

    Example:
        >>> rng = np.random.default_rng(0)
        >>> good, narrow, data = rng.normal(0, 1, (200, 2)), rng.normal(0, 0.3, (200, 2)), rng.normal(0, 1, (200, 2))
        >>> found = compare_generators({"good": good, "narrow": narrow}, data, seed=0)
        >>> bool(found.judgements["narrow"].c2st.accuracy.value > found.judgements["good"].c2st.accuracy.value)
        True
    """
    real = _checked("data", array_of(data, "data"))
    entries, judge = _entries(generators, other_data, num_images), _Judge(real, features, classify)
    found = {}
    for (name, given), own in zip(entries.items(), spawn(seed, len(entries)), strict=True):
        drawing, judging, weighing = spawn(own, 3)
        draws = _draws(name, given, site, real, drawing, postprocess)
        rows = real[: num_images if noise is not None else 0]
        found[name] = judge(name, draws, _likelihoods(given, site, rows, noise, method, weighing), judging)
    return GeneratorComparison(found, real, judge.shares)


def _entries(generators: Any, other_data: Any, num_images: int) -> dict[str, Any]:
    """Everything that is judged, by name."""
    positive_int(num_images=num_images)
    if not isinstance(generators, Mapping) or not generators or DATA in generators:
        expected = f"a mapping of names, none of them {DATA!r}"
        raise SettingError(problem("compare_generators", found=repr(generators)[:60], expected=expected))
    return {**generators, **({} if other_data is None else {DATA: other_data})}


def _checked(where: str, rows: Array) -> Array:
    """Refuse too few rows, and numbers that are not finite."""
    if rows.ndim == 0 or len(rows) < FEWEST:
        found = f"{len(rows) if rows.ndim else 'no'} rows"
        raise SettingError(problem(where, found=found, expected=f"at least {FEWEST}"))
    if bad := int((~np.isfinite(rows)).sum()):
        found = f"{bad} of {rows.size} numbers that are NaN or infinite"
        raise ModelError(problem(where, found=found, expected="finite numbers"))
    return rows


class _Judge:
    """The measures, with what they need of the data."""

    def __init__(self, real: Array, features: Features | None, classify: Callable[[torch.Tensor], Any] | None) -> None:
        self._real, self._features, self._classify = real, features, classify
        counts = self._counts(real)
        self.shares = counts / counts.sum() if counts.size else np.zeros(0)

    def __call__(self, name: str, draws: Array, likelihoods: list[Estimate], seed: np.random.SeedSequence) -> Judgement:
        real, features = self._real, self._features
        image = real.ndim == 3 and min(real.shape[1:]) >= 3
        with warnings.catch_warnings():  # too few points for Fréchet: the column of KID says the same without that
            warnings.simplefilter("ignore", WeightWarning)
            distance = frechet(real, draws, features=features)
        return Judgement(
            draws=draws,
            c2st=c2st(real, draws, seed=as_int(seed)),
            kid=kid(real, draws, features=features, seed=as_int(seed)),
            frechet=distance,
            fidelity=fidelity(real, draws, features=features),
            sharpness=sharpness(draws) if image else None,
            classes=self._counts(draws),
            log_likelihood=np.array([float(found.value) for found in likelihoods]),
            likelihood_errors=np.array([float(found.se) for found in likelihoods]),
            check=check_coverage(real, draws, generator(seed), name=f"{name}: coverage of the data"),
        )

    def _counts(self, rows: Array) -> NDArray[np.int64]:
        if self._classify is None:
            return np.zeros(0, dtype=np.int64)
        with torch.no_grad():
            scores = torch.as_tensor(self._classify(torch.from_numpy(rows).to(torch.get_default_dtype())))
        if scores.ndim != 2 or len(scores) != len(rows) or not bool(torch.isfinite(scores).all()):
            kind = "" if bool(torch.isfinite(scores).all()) else ", some of them not finite"
            found = f"scores of shape {tuple(scores.shape)} for {len(rows)} rows{kind}"
            raise ModelError(problem("classify", found=found, expected=f"({len(rows)}, classes), finite"))
        return np.bincount(scores.argmax(-1).numpy(), minlength=scores.shape[-1])


def _draws(
    name: str, given: Any, site: str, real: Array, seed: np.random.SeedSequence, postprocess: Callable[..., Any] | None
) -> Array:
    """Draws of one generator, as many as there are rows of data."""
    if isinstance(given, (Fitted, Model)):
        made = (given.generate if isinstance(given, Fitted) else _from(given))(len(real), seed=as_int(seed))
        if site not in made:
            raise UnknownName(f"compare_generators: {name!r} generates no site {site!r}; {did_you_mean(site, made)}")
        given = made[site]
    where = f"compare_generators: {name!r}"
    draws = _checked(where, array_of(given, where))
    if draws.shape[1:] != real.shape[1:]:
        found = f"draws of shape {draws.shape[1:]} beside data of shape {real.shape[1:]}"
        raise ModelError(problem(where, found=found, expected="one shape"))
    draws = some(draws, len(real), generator(seed))
    if postprocess is None or name == DATA:
        return draws
    changed = _checked("postprocess", array_of(postprocess(torch.from_numpy(draws)), "postprocess"))
    if changed.shape != draws.shape:
        raise ModelError(problem("postprocess", found=f"shape {changed.shape}", expected=f"as before, {draws.shape}"))
    return changed


def _from(model: Model) -> Callable[..., dict[str, torch.Tensor]]:
    def generate(count: int, *, seed: int) -> dict[str, torch.Tensor]:
        return generated(model, count, seed)

    return generate


def _likelihoods(
    given: Any, site: str, rows: Array, noise: Any, method: Any, seed: np.random.SeedSequence
) -> list[Estimate]:
    """Log p(y) of each row, where there is a model of it."""
    if not isinstance(given, (Fitted, Model)):
        return []
    model = given.model if isinstance(given, Fitted) else given
    chosen: Any = AIS() if method is None else method
    found = []
    for row, own in zip(rows, spawn(seed, len(rows)), strict=True):
        seen = measured(model, noise=noise, **{site: torch.from_numpy(row)})
        evidence = infer(seen, chosen, seed=as_int(own), progress=False).log_evidence
        if evidence is None:
            expected = "one that estimates the evidence"
            raise SettingError(problem("method", found=repr(chosen), expected=expected, fix="ph.AIS()"))
        found.append(evidence)
    return found
