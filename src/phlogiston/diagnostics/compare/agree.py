"""The same model by several methods: whether they agree, and which of them to doubt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.diagnostics.compare.evidence import evidence
from phlogiston.diagnostics.compare.same_data import model_of, named, require_one_model, require_same_data
from phlogiston.engine.program.isolate import as_int, generator, spawn
from phlogiston.errors import UnsupportedModel, problem
from phlogiston.inference import registry
from phlogiston.inference.infer import infer
from phlogiston.model.model import Model
from phlogiston.posterior.labels import component
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.thinning import effective_size_of
from phlogiston.posterior.verdict import Diagnosis
from phlogiston.stats.divergence import C2st, Mmd, c2st, mmd
from phlogiston.stats.estimate import Estimate
from phlogiston.stats.weights import systematic_resample

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
_MOST_POINTS = 800
_FALSE_ALARMS = 1e-4  # of all comparisons together, if every method were right
_TOLD_APART = 0.57  # accuracy of a classifier between two normals a third of an sd apart
_EFFECT = 0.05  # posterior standard deviations, below which a difference matters to nobody


@dataclass(frozen=True)
class Moment:
    """One component of one site by every method.

    Args:
        label: of the component.
        mean: by method.
        sd: by method.
    """

    label: str
    mean: Mapping[str, Estimate]
    sd: Mapping[str, Estimate]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Methods side by side; prints as a table with a verdict.

    Args:
        posteriors: by name.
        moments: of every component.
        z: pair of names -> the largest difference of a mean or an sd, in combined standard errors.
        where: pair of names -> the component and moment of that difference.
        effect: pair of names -> that difference in posterior standard deviations.
        limit: of ``z``, for this many comparisons.
        c2st: pair of names -> how well a classifier tells the draws apart.
        mmd: pair of names -> the kernel distance between the draws.
        log_evidence: of each; None where it has none.
        reports: of each, the checks of its own.
        refused: methods that could not treat the model, with the reason.
        outlier: the name of the method that disagrees with the others; "" if none does.
        why: in words.
    """

    posteriors: Mapping[str, Posterior]
    moments: tuple[Moment, ...]
    z: Mapping[tuple[str, str], float]
    where: Mapping[tuple[str, str], str]
    effect: Mapping[tuple[str, str], float]
    limit: float
    c2st: Mapping[tuple[str, str], C2st]
    mmd: Mapping[tuple[str, str], Mmd]
    log_evidence: Mapping[str, Estimate | None]
    reports: Mapping[str, Diagnosis]
    refused: Mapping[str, str]
    outlier: str
    why: str

    @property
    def agreed(self) -> bool:
        """Whether no pair differs by more than its errors explain, and no method fails its own checks."""
        return not self.unusable and not any(self.differ(*pair) for pair in self.z)

    @property
    def unusable(self) -> tuple[str, ...]:
        """Methods whose own checks say that their draws, and so their errors, cannot be used."""
        return tuple(name for name, report in self.reports.items() if report.verdict == "do not use")

    def differ(self, one: str, other: str) -> bool:
        """Whether two methods differ by more than their errors explain, and by an amount that matters.

        In a mean, in an sd, or in what a classifier sees.
        """
        pair = (one, other) if (one, other) in self.z else (other, one)
        told = self.c2st[pair]
        apart = told.p_value < _FALSE_ALARMS / len(self.z) and float(told.accuracy.value) > _TOLD_APART
        return apart or (self.z[pair] > self.limit and self.effect[pair] > _EFFECT)

    @property
    def verdict(self) -> str:
        """The verdict in one line."""
        if self.agreed:
            return f"{len(self.posteriors)} methods agree on {len(self.moments)} numbers within Monte Carlo error"
        if not any(self.differ(*pair) for pair in self.z):
            return f"no difference beyond the errors, but {self.why}"
        if not self.outlier:
            return "the methods disagree, and nothing says which of them is right"
        return f"{self.outlier} disagrees with the others: {self.why}"

    def summary(self) -> pd.DataFrame:
        """A row a method: its own verdict, and how far it is from the method that is furthest from it."""
        import pandas as pd

        rows = []
        for name, post in self.posteriors.items():
            pairs = [pair for pair in self.z if name in pair]
            worst = max(pairs, key=lambda pair: self.z[pair])
            found = self.log_evidence[name]
            rows.append(
                {
                    "own checks": self.reports[name].verdict,
                    "differs from": sum(self.differ(*pair) for pair in pairs),
                    "|z|": self.z[worst],
                    "worst": self.where[worst],
                    "C2ST": max(float(self.c2st[pair].accuracy.value) for pair in pairs),
                    "MMD p": min(self.mmd[pair].p_value for pair in pairs),
                    "log evidence": "-" if found is None else str(found),
                    "seconds": round(post.seconds, 2),
                }
            )
        return pd.DataFrame(rows, index=list(self.posteriors))

    def __str__(self) -> str:
        table = self.summary().to_string(float_format=lambda x: f"{x:.3g}")
        refused = [f"! {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join([self.verdict, table, f"limit of |z|: {self.limit:.2f}", *refused])

    def plot(self) -> Figure:
        """Means and spreads of the components that differ most, method by method, and the evidence intervals."""
        shown = sorted(self.moments, key=lambda moment: -_spread(moment))
        from phlogiston.report.plots.agreement import picture_of

        return picture_of(
            self.verdict,
            [(moment.label, moment.mean, moment.sd) for moment in shown],
            {name: found for name, found in self.log_evidence.items() if found is not None},
            tuple(self.posteriors),
            self.outlier,
        )

    def report(self, path: str | Path, *, command: str = "") -> Path:
        """Write one self-contained HTML page: verdict, methods, pairs, numbers, what it takes to do it again.

        Args:
            path: of the page; folders are made.
            command: what was run, where the calls of ``infer`` do not say it.
        """
        from phlogiston.report.pages.agreement_page import write_agreement

        return write_agreement(self, path, command=command)


def agree(
    given: Mapping[str, Posterior] | Sequence[Posterior] | Model | Callable[..., Any],
    methods: Sequence[Any] | None = None,
    *,
    seed: int | None = None,
    progress: bool = True,
) -> Agreement:
    r"""Whether several methods give the same posterior of the same model, and whom to doubt if not.

    Every mean and standard deviation is compared by :math:`z = |a - b| / \sqrt{\mathrm{se}_a^2 + \mathrm{se}_b^2}`,
    with a limit for all comparisons together; the draws by a classifier and by a kernel distance, thinned to what
    they are worth; the evidences by their intervals (bridge sampling gives chains one). The outlier is the method
    that is furthest from the others; of two, the one whose own checks fail.

    Args:
        given: posteriors by name or in a list; or a model, which is treated by each of ``methods``.
        methods: names or methods such as ``ph.NUTS()``; those that refuse the model are listed with the reason.
        seed: of the runs and of the comparisons.
        progress: of the runs.

    Raises:
        ValueError: the posteriors are of different data, latents or models, or one run twice; or fewer than two methods
            can treat the model.

    References:
        Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests, https://arxiv.org/abs/1610.06545; Gretton et
        al. (2012), A kernel two-sample test, https://jmlr.org/papers/v13/gretton12a.html

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> model = ph.Model(program).observe(y=1.0)
        >>> found = ph.agree(model, methods=["importance", "smc"], seed=0, progress=False)
        >>> found.agreed, found.outlier
        (True, '')
    """
    running, comparing = spawn(seed, 2)
    refused: dict[str, str] = {}
    if isinstance(given, (Mapping, Sequence)):
        if methods is not None:
            raise TypeError("agree: found methods beside posteriors; expected a model; write: ph.agree(model, methods)")
        posts = named("agree", given)
    else:
        posts = _run(given, methods, running, progress, refused)
    require_same_data("agree", posts)
    require_one_model("agree", posts)
    return _with_outlier(_compared(posts, refused, comparing))


def _compared(posts: dict[str, Posterior], refused: dict[str, str], seed: np.random.SeedSequence) -> Agreement:
    picking, testing, bridging = spawn(seed, 3)
    moments = _moments(posts)
    z, where, effect = _differences(posts, moments)
    points = {name: _points(post, generator(picking)) for name, post in posts.items()}
    tests = {pair: as_int(s) for pair, s in zip(z, spawn(testing, len(z)), strict=True)}
    return Agreement(
        posteriors=posts,
        moments=moments,
        z=z,
        where=where,
        effect=effect,
        limit=_limit(len(z) * 2 * len(moments)),
        c2st={pair: c2st(points[pair[0]], points[pair[1]], seed=tests[pair]) for pair in z},
        mmd={pair: mmd(points[pair[0]], points[pair[1]], num_permutations=200, seed=tests[pair]) for pair in z},
        log_evidence={name: _evidence(post, as_int(bridging)) for name, post in posts.items()},
        reports={name: post.diagnose() for name, post in posts.items()},
        refused=refused,
        outlier="",
        why="",
    )


def _run(
    given: Model | Callable[..., Any],
    methods: Sequence[Any] | None,
    seed: np.random.SeedSequence,
    progress: bool,
    refused: dict[str, str],
) -> dict[str, Posterior]:
    """Each method on the model, with a seed of its own; refusals are written down."""
    if not methods or isinstance(methods, str) or len(methods) < 2:
        found = f"methods={methods!r}" if methods is not None else "a model without methods"
        fix = 'ph.agree(model, methods=["nuts", "smc"])'
        raise ValueError(problem("agree", found=found, expected="a list of two or more", fix=fix))
    model = given if isinstance(given, Model) else Model(given)
    posts: dict[str, Posterior] = {}
    for method, own in zip(methods, spawn(seed, len(methods)), strict=True):
        name = method if isinstance(method, str) else registry.name_of(method)
        label = name if name not in posts else f"{name} {len(posts) + 1}"
        try:
            posts[label] = infer(model, method, seed=as_int(own), progress=progress)
        except UnsupportedModel as error:
            refused[label] = str(error)
    if len(posts) < 2:
        found = f"{len(posts)} method{'s' * (not posts)} that can treat the model ({'; '.join(refused.values())})"
        raise ValueError(problem("agree", found=found, expected="at least two"))
    return posts


def _moments(posts: Mapping[str, Posterior]) -> tuple[Moment, ...]:
    """Of every component of every latent.

    Raises:
        ValueError: the posteriors are not of the same latents.
    """
    first = next(iter(posts))
    structure = model_of("agree", first, posts[first]).structure
    sites = [site.name for site in structure.of("latent")]
    found: list[Moment] = []
    for name, post in posts.items():
        for site in sites:
            if site not in post.draws or post.draws[site].shape[2:] != posts[first].draws[site].shape[2:]:
                text = f"latent {site!r} of {first!r}, which {name!r} lacks or has in another shape"
                raise ValueError(problem("agree", found=text, expected="posteriors of one model"))
    labels = model_of("agree", first, posts[first]).labels
    for site in sites:
        each = {name: post.moments(site) for name, post in posts.items()}
        shape = posts[first].draws[site].shape[2:]
        for i in range(int(np.prod(shape, dtype=int))):
            mean = {n: Estimate(float(m.mean.reshape(-1)[i]), float(m.mean_se.reshape(-1)[i])) for n, m in each.items()}
            sd = {n: Estimate(float(m.sd.reshape(-1)[i]), float(m.sd_se.reshape(-1)[i])) for n, m in each.items()}
            found.append(Moment(component(site, shape, i, labels), mean, sd))
    return tuple(found)


def _differences(
    posts: Mapping[str, Posterior], moments: tuple[Moment, ...]
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], str], dict[tuple[str, str], float]]:
    z, where, effect = {}, {}, {}
    names = list(posts)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            best = (-1.0, "", 0.0)
            for moment in moments:
                scale = max(float(moment.sd[one].value), float(moment.sd[other].value), 1e-300)
                for kind, values in (("mean", moment.mean), ("sd", moment.sd)):
                    gap = abs(float(values[one].value) - float(values[other].value))
                    error = float(np.hypot(values[one].se, values[other].se))
                    score = gap / error if error > 0.0 else 0.0 if gap < 1e-9 * scale else math.inf
                    best = max(best, (score, f"{kind} of {moment.label}", gap / scale))
            z[one, other], where[one, other], effect[one, other] = best
    return z, where, effect


def _limit(comparisons: int) -> float:
    """|z| that so many comparisons of right methods exceed hardly ever (Bonferroni)."""
    return NormalDist().inv_cdf(1.0 - _FALSE_ALARMS / (2.0 * max(comparisons, 1)))


def _spread(moment: Moment) -> float:
    """How far methods are apart, in standard deviations."""
    means = [float(found.value) for found in moment.mean.values()]
    sds = [float(found.value) for found in moment.sd.values()]
    scale = max(float(np.median(sds)), 1e-300)
    return max(max(means) - min(means), max(sds) - min(sds)) / scale


def _points(post: Posterior, rng: np.random.Generator) -> Array:
    """Draws of the latents that count the same and are nearly independent, ``[n, numbers]``, unconstrained."""
    model = model_of("agree", "", post)
    target = model.target()
    total, structure = post.num_chains * post.num_draws, model.structure
    values = {site.name: post.draws[site.name].flatten(0, 1) for site in structure.of("latent")}
    if post.log_weights is not None:
        size = int(min(post.figures.get("ess", total) / 2, _MOST_POINTS))
        logs = post.log_weights.reshape(-1).double().numpy()
        rows = np.unique(systematic_resample(logs, max(size, 16), rng))  # a point twice would teach a classifier
    else:
        size = min(int(effective_size_of(post, tails=True)), _MOST_POINTS)
        rows = np.linspace(0, total - 1, max(size, 8)).astype(int)
    values = {name: value[torch.from_numpy(rows)] for name, value in values.items()}
    parts = [target.unconstrain(values)] if structure.continuous else []
    parts += [values[site.name].reshape(len(rows), -1).double() for site in structure.discrete]
    points = torch.cat(parts, -1).double().numpy()
    return np.asarray(points[np.isfinite(points).all(1)])


def _evidence(post: Posterior, seed: int) -> Estimate | None:
    """The method's own, or that of bridge sampling from its draws where there can be one."""
    if post.log_evidence is not None:
        return post.log_evidence
    try:
        return evidence(post, seed=seed)
    except (UnsupportedModel, ValueError):
        return None


def _with_outlier(found: Agreement) -> Agreement:
    """Name the method that differs from most others, or else the one whose own checks fail, with the reason."""
    if not any(found.differ(*pair) for pair in found.z):
        reasons = [f"{name} cannot be used: {found.reports[name].findings[0].message}" for name in found.unusable]
        return replace(found, outlier=found.unusable[0] if len(reasons) == 1 else "", why="; ".join(reasons))
    suspects = _suspects(found)
    if len(suspects) != 1:
        return found
    name = suspects[0]
    pair = max((pair for pair in found.z if name in pair), key=lambda pair: found.z[pair])
    difference = (
        f"its {found.where[pair]} is {found.z[pair]:.1f} standard errors ({found.effect[pair]:.2f} sd) "
        f"from that of {pair[0] if pair[1] == name else pair[1]}"
    )
    findings = found.reports[name].findings
    doubt = f"; {findings[0].message}" if findings else "; its own checks find nothing"
    return replace(found, outlier=name, why=difference + doubt)


def _suspects(found: Agreement) -> list[str]:
    """The methods that differ from most others; among several of them, those whose own checks are gravest."""
    differs = {n: sum(found.differ(*pair) for pair in found.z if n in pair) for n in found.posteriors}
    suspects = [name for name, count in differs.items() if count == max(differs.values())]
    if len(suspects) == 1:
        return suspects
    order = {"trust": 0, "caution": 1, "do not use": 2}
    gravity = {name: order[found.reports[name].verdict] for name in suspects}
    return [name for name in suspects if gravity[name] == max(gravity.values())]
