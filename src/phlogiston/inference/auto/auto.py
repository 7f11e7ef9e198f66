"""``Auto``: the method that chooses the method, and goes on to the next where diagnostics refute it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from phlogiston.errors import ModelError, PlanWarning, SettingError, UnsupportedModel, positive_int, problem, warn
from phlogiston.inference import registry
from phlogiston.inference.auto.facts import Facts
from phlogiston.inference.auto.rules import steps_of
from phlogiston.inference.auto.survey import survey
from phlogiston.inference.method import Needs, require, run_method
from phlogiston.model.model import Model
from phlogiston.model.reparam import reparam
from phlogiston.posterior.plan import Plan, Step, Trial
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.verdict import Diagnosis

ABOUT_THE_MODEL = ("prior and data", "tails of the draws")  # what no other method would change
_RANK = {"trust": 0, "caution": 1, "do not use": 2}


@dataclass(frozen=True, kw_only=True)
class Auto:
    r"""Choose a method by the model's facts, run it, and go on to the next where its diagnostics refute it.

    The plan is that of ``ph.recommend(model)``: exact sums where all latents are finite; importance sampling where the
    prior, or the normal at the mode, covers the posterior; NUTS where gradients lead, in coordinates of ``ph.reparam``
    where a scale is a latent; Gibbs sampling where a count can be neither summed nor differentiated; SMC where there
    are several modes; variational inference where chains are too dear. A step is refuted by any finding about its
    draws. What was tried, why, and with which verdict is in ``posterior.plan``; if all steps are refuted, the posterior
    is that of the best verdict.

    Args:
        max_steps: steps of the plan that are taken at most.
        plan: a plan to follow; that of ``ph.recommend(model)`` by default.

    Raises:
        UnsupportedModel: no method can treat the model.

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> post = ph.infer(ph.Model(program).observe(y=1.0), "auto", seed=0, progress=False)
        >>> post.method, post.plan.story
        ('importance', "'importance': trust")
    """

    max_steps: int = 4
    plan: Plan | None = None

    paper: ClassVar[str] = "the plan of `ph.recommend`"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        positive_int(max_steps=self.max_steps)
        if self.plan is not None and (not isinstance(self.plan, Plan) or any(s.method is None for s in self.plan)):
            expected = "a plan with methods, as ph.recommend(model) gives it"
            raise SettingError(problem("plan", found=repr(self.plan), expected=expected))

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Posterior:
        """Infer; see the class."""
        plan = plan_of(model) if self.plan is None else replace(self.plan, trials=(), taken=-1)
        return _followed(plan, model, self.max_steps, seed, progress)


def recommend(model: Model | Callable[..., Any]) -> Plan:
    """Which methods to try on a model, in which order, and why, without running any.

    The facts are read off the sites and the traced density, counted, or found by a few hundred draws and a few climbs
    with a seed that never changes, so the same model always gets the same plan.

    Args:
        model: a ``Model`` with its observations, or a program without inputs.

    Returns:
        the plan, the first choice first; it prints as a table.

    Raises:
        ModelError: the model, its inputs or its observations are wrong.
        UnsupportedModel: no method can treat it.

    Example:
        >>> def program():
        ...     z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
        ...     pyro.sample("x", dist.Normal(2.0 * z, 1.0))
        >>> print(recommend(ph.Model(program).observe(x=0.9)).first.line)
        ph.infer(model, ph.Exact(num_samples=2000))
    """
    return plan_of(require(Auto(), model if isinstance(model, Model) else Model(model)))


def plan_of(model: Model) -> Plan:
    """The plan for a checked model: the steps that its sites allow.

    Raises:
        UnsupportedModel: there are none.
    """
    facts = survey(model)
    steps = [each for each in steps_of(facts) if each.method.needs.unmet(model.structure) is None]
    if not steps:
        able = registry.methods_for(model.structure)
        raise UnsupportedModel(
            f"method 'auto' has no plan for program {model.name!r}: {'; '.join(facts.lines().values())}; methods that "
            f"take its sites: {able}"
        )
    return Plan(model=model.name, facts=facts.lines(), steps=tuple(steps), advice=_advice(facts))


def _advice(facts: Facts) -> str:
    if not facts.funnels:
        return ""
    listing = "; ".join(str(site) for site in facts.funnels)
    return f"{listing}; write: model = ph.reparam(model)"


def _followed(plan: Plan, model: Model, most: int, seed: int | None, progress: bool) -> Posterior:
    """Take steps until one is not refuted, or there are none left; return the best result."""
    runs: list[tuple[Posterior, Diagnosis, list[warnings.WarningMessage]]] = []
    failure: ModelError | None = None
    for place, each in _ordered(plan, most, lambda: runs[-1][1] if runs else None):
        began = time.perf_counter()
        try:
            posterior, report, caught = _taken(each, model, seed, progress)
        except ModelError as error:
            failure = error
            seconds = time.perf_counter() - began
            plan = plan.tried(Trial(step=place, name=each.name, verdict="failed", outcome=str(error), seconds=seconds))
            continue
        runs.append((posterior, report, caught))
        outcome = report.findings[0].message if report else report.headline.partition(": ")[2]
        trial = Trial(
            step=place, name=each.name, verdict=report.verdict, outcome=outcome, seconds=time.perf_counter() - began
        )
        plan = plan.tried(trial)
        if posterior.interrupted or not trial.is_refuted:
            break
    if not runs:
        assert failure is not None
        raise failure
    return _best(plan, runs)


def _ordered(plan: Plan, most: int, last: Callable[[], Diagnosis | None]) -> Iterator[tuple[int, Step]]:
    """The steps in order, but first those that answer to what the last one failed."""
    left = list(enumerate(plan.steps))
    for _ in range(min(most, len(left))):
        report = last()
        failed = {check.name for check in report.checks if check.finding is not None} if report is not None else set()
        answers = [item for item in left if failed & set(item[1].against)]
        chosen = (answers or left)[0]
        left.remove(chosen)
        yield chosen


def _taken(
    each: Step, model: Model, seed: int | None, progress: bool
) -> tuple[Posterior, Diagnosis, list[warnings.WarningMessage]]:
    """A step's posterior, what its checks say of the draws, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = reparam(model, seed=seed or 0) if each.rewrite else model
        posterior = run_method(each.method, chosen, seed=seed, progress=progress)
        checks = posterior.diagnose().checks
    report = Diagnosis(tuple(check for check in checks if check.name not in ABOUT_THE_MODEL))
    return posterior, report, caught


def _best(plan: Plan, runs: list[tuple[Posterior, Diagnosis, list[warnings.WarningMessage]]]) -> Posterior:
    """The posterior with the best verdict, the earliest of equals, with the plan; its warnings are raised again."""
    order = sorted(range(len(runs)), key=lambda i: (_RANK[runs[i][1].verdict], len(runs[i][1])))
    posterior, _, caught = runs[order[0]]
    ran = [i for i, trial in enumerate(plan.trials) if trial.verdict != "failed"]
    plan = replace(plan, taken=ran[order[0]])
    for other in caught:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if len(plan.trials) > 1:
        warn(f"auto: {plan.story}", PlanWarning)
    return replace(posterior, plan=plan)
