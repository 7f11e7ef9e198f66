"""The method that the library chooses by itself, against a table that was written before the code."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import _load_model

import phlogiston as ph

Answered = tuple[ph.Model, ph.Reference | None]


@dataclass(frozen=True)
class Right:
    """The right first choice for a model, and why.

    ``build`` gives the model with its exact answer, where it has one; ``says`` are words that the reason of the choice
    has to hold.
    """

    name: str
    build: Callable[[], Answered]
    first: str
    why: str
    says: tuple[str, ...] = ()
    reparameterised: bool = False

    def model(self) -> ph.Model:
        return self.build()[0]


def of_file(name: str, attribute: str = "model") -> Callable[[], Answered]:
    def build() -> Answered:
        module = _load_model(name)
        return getattr(module, attribute), getattr(module, "reference", None)

    return build


def of_choices(name: str) -> Callable[[], Answered]:
    def build() -> Answered:
        case = _load_model("choices").CASES[name]()
        return case.model, case.reference

    return build


def of_posteriordb(name: str) -> Callable[[], Answered]:
    def build() -> Answered:
        from models import posteriordb

        file, draws = posteriordb.load(name), posteriordb.reference_draws(name)
        model = file.model()
        means: dict[str, Any] = {s.name: np.full(s.shape, np.nan) for s in model.structure.continuous}
        sds = {site: value.copy() for site, value in means.items()}
        for parameter, (site, *place) in file.parameters.items():
            means[site][tuple(place)] = draws[parameter].mean()
            sds[site][tuple(place)] = draws[parameter].std()
        return model, ph.Reference(mean=means, sd=sds, source="posteriordb's reference draws")

    return build


def logistic_regression() -> Answered:
    iris = _load_model("iris")
    rows = np.asarray(iris.train)
    model = ph.Model(iris.logistic, iris.standardised(rows)).observe(species=torch.tensor(iris.labels[rows]))
    return model, None


# One currency for all methods that draw: how many densities one effective draw costs. An independent draw that is
# weighted costs 1 / (share of draws that the weights leave), a draw of NUTS about 100, whatever the model: steps,
# gradients, autocorrelation and warm-up together. What proposes must cover the posterior (k-hat), or its weights lie.
TABLE = (
    # All latents discrete, finitely many states: nothing beats counting, as long as the table can be laid out.
    Right("hmm", of_file("hmm"), "exact", "a chain of five binary states: the sum goes step by step", ("table",)),
    Right("ising", of_file("ising"), "exact", "nine coupled spins: 512 states", ("table",)),
    Right("iris", of_file("iris"), "exact", "classes of flowers: a plate adds up, 3^50 is never met", ("table",)),
    Right("gmm", of_file("gmm"), "exact", "components of flowers, parameters held: as iris", ("table",)),
    Right("long_chain", of_choices("long_chain"), "exact", "2^40 paths, but a chain costs its length", ("table",)),
    # Finitely many states that cannot be summed: one at a time, each from its exact conditional.
    Right("spins", of_choices("spins"), "gibbs", "26 spins that all touch: 2^26 numbers", ("table", "s_0")),
    Right("plated_spins", of_choices("plated_spins"), "gibbs", "a plate whose elements are tied", ("coupling",)),
    Right("spins_and_field", of_choices("spins_and_field"), "gibbs", "2^24 numbers a density", ("table",)),
    # A count without an upper end: no sum, no gradient.
    Right("counted_rows", of_choices("counted_rows"), "gibbs", "thirty Poisson latents", ("Poisson", "n")),
    Right("with_a_count", of_choices("with_a_count"), "gibbs", "a regression with a Poisson latent", ("count",)),
    # Draws from the prior that often land in the posterior: the cheapest effective draw, and the evidence with it.
    Right("beta_binomial", of_file("beta_binomial"), "importance", "ten flips: 44 % of prior draws count", ("prior",)),
    Right(
        "gamma_poisson", of_file("gamma_poisson"), "importance", "four counts: half of prior draws count", ("prior",)
    ),
    Right("dirichlet", of_file("dirichlet_categorical"), "importance", "eight throws: a fifth counts", ("prior",)),
    Right("mixture", of_file("mixture"), "importance", "four points: a sixth of the prior draws counts", ("prior",)),
    Right("eight_schools", of_file("eight_schools"), "importance", "wide errors: 23 % count", ("prior",)),
    Right(
        "centred",
        of_file("eight_schools", "centred_model"),
        "importance",
        "no path has to enter the funnel",
        ("prior",),
    ),
    Right(
        "funnel", of_file("funnel"), "importance", "nothing is observed: prior draws are posterior draws", ("prior",)
    ),
    Right("funnel, centred", of_file("funnel", "centred_model"), "importance", "the same", ("prior",)),
    Right(
        "branching", of_choices("branching"), "importance", "one latent, no trace: few draws will do", ("prior", "loop")
    ),
    Right("outside_torch", of_choices("outside_torch"), "importance", "no gradient is true", ("prior",)),
    # A posterior that is nearly normal: draws from the normal at its mode, weighted.
    Right("normal_normal", of_file("normal_normal"), "laplace", "exactly normal", ("normal",)),
    Right("ppca", of_file("ppca"), "laplace", "exactly normal", ("normal",)),
    Right("gaps", of_choices("gaps"), "laplace", "exactly normal, missing entries too", ("normal",)),
    Right("field", of_choices("field"), "laplace", "exactly normal in sixty dimensions", ("normal",)),
    Right(
        "branching_line", of_choices("branching_line"), "laplace", "normal; a density costs a run", ("normal", "loop")
    ),
    Right(
        "many_counts", of_choices("many_counts"), "laplace", "200,000 data make it normal; a chain is dear", ("normal",)
    ),
    Right("arK", of_posteriordb("arK-arK"), "laplace", "195 points, linear", ("normal",)),
    Right("logearn", of_posteriordb("earnings-logearn_height"), "laplace", "1,192 points, flat prior", ("normal",)),
    Right("kidiq", of_posteriordb("kidiq-kidscore_momiq"), "laplace", "434 points, flat prior", ("normal",)),
    Right("nes", of_posteriordb("nes1980-nes"), "laplace", "hundreds of points, flat prior", ("normal",)),
    Right(
        "gp_regr",
        of_posteriordb("gp_pois_regr-gp_regr"),
        "laplace",
        "three scales; beats 8 % of the prior",
        ("normal",),
    ),
    # Neither proposal covers it, and there are gradients.
    Right("nig_regression", of_file("nig_regression"), "nuts", "six points leave a skewed variance", ("k-hat",)),
    Right("logistic", logistic_regression, "nuts", "separable classes: skewed, 15 dimensions", ("k-hat",)),
    Right("garch", of_posteriordb("garch-garch11"), "nuts", "a curved boundary, flat priors", ("k-hat",)),
    Right("hmm_drive", of_posteriordb("bball_drive_event_0-hmm_drive_0"), "nuts", "k-hat 0.6 at the mode", ("k-hat",)),
    Right("groups", of_choices("groups"), "nuts", "a funnel, which the other coordinates lack", ("tau",), True),
    # Separate modes.
    Right("signs", of_choices("signs"), "smc", "sixteen modes, walled off", ("modes",)),
    Right("exchangeable", of_choices("exchangeable"), "smc", "two mirrored modes", ("modes",)),
    # No gradient, sharp posterior.
    Right("rounded", of_choices("rounded"), "mh", "whole degrees: the density is a staircase", ("gradient",)),
    # Thousands of latents, a few in each row of data.
    # Written down as "svi": the latents of 3,000 rows do not depend on each other. Measured before the code: NUTS is
    # five times nearer to the answer in the same time, as its density costs next to nothing.
    Right("many_rows", of_choices("many_rows"), "nuts", "6,000 latents, nearly normal, cheap density", ("6,000",)),
    Right("vae_digits", of_file("vae_digits"), "svi", "3,000 latents under a network", ("image", "3,000")),
)


QUICK = ("hmm", "spins", "with_a_count", "beta_binomial", "normal_normal", "nig_regression", "signs", "rounded")


def cases() -> list[Any]:
    """The whole table; all but a model of each kind are slow."""
    found = []
    for right in TABLE:
        marks = [] if right.name in QUICK else [pytest.mark.slow]
        if "posteriordb" in right.build.__qualname__ and not os.environ.get("POSTERIORDB"):
            marks.append(pytest.mark.skip(reason="POSTERIORDB is not set"))
        found.append(pytest.param(right, id=right.name, marks=marks))
    return found


def test_the_table_has_every_kind_of_choice() -> None:
    assert len(TABLE) >= 20
    assert len({right.name for right in TABLE}) == len(TABLE)
    kinds = {"exact", "gibbs", "importance", "laplace", "nuts", "smc", "mh", "svi"}
    assert {right.first for right in TABLE} == kinds
    assert {right.first for right in TABLE if right.name in QUICK} == kinds - {"svi"}


@pytest.mark.parametrize("right", cases())
def test_the_first_choice_is_the_right_one_and_says_why(right: Right) -> None:
    first = ph.recommend(right.model()).first
    assert first.name == right.first, f"{first.name}: {first.reason}"
    assert first.rewrite == right.reparameterised
    missing = [word for word in right.says if word not in first.reason]
    assert not missing, f"{first.reason!r} lacks {missing}"


def test_a_poisson_latent_changes_the_reason_and_the_plan(load_model: Any) -> None:
    without = ph.recommend(load_model("nig_regression").model)
    with_it = ph.recommend(load_model("choices").CASES["with_a_count"]().model)
    assert (without.first.name, with_it.first.name) == ("nuts", "gibbs")
    assert "gradients lead" in without.first.reason
    assert "count (Poisson): a count without a last value can be neither summed" in with_it.first.reason
    assert with_it.facts["discrete"] == "count (Poisson): without a last value"
    assert "discrete" not in without.facts
    assert {step.name for step in with_it} & {"nuts", "laplace", "smc"} == set()
    refused = "method 'nuts' cannot treat site 'count'"
    with pytest.raises(ph.UnsupportedModel, match=refused):
        ph.infer(load_model("choices").CASES["with_a_count"]().model, "nuts")


def test_a_plan_is_the_same_every_time_and_prints(load_model: Any) -> None:
    model = load_model("mixture").model
    first, again = ph.recommend(model), ph.recommend(model.unobserved("nothing"))
    assert first == again
    text = str(first)
    assert "16 joint states, summed in a table of 8 numbers" in text
    assert "ph.infer(model, ph.Importance(num_particles=" in text
    assert max(map(len, text.splitlines())) <= 100
    assert repr(first).startswith("Plan(mixture: importance, nuts")
    assert "<table>" in first._repr_html_()
    assert [row[4] for row in first.rows()] == ["not tried"] * len(first)


def test_auto_runs_the_first_step_as_if_it_had_been_asked_for(load_model: Any, tmp_path: Path) -> None:
    model = load_model("beta_binomial").model
    posterior = ph.infer(model, "auto", seed=3, progress=False)
    direct = ph.infer(model, ph.recommend(model).first.method, seed=3, progress=False)
    assert torch.equal(posterior.draws["theta"], direct.draws["theta"])
    assert (posterior.method, posterior.settings) == ("importance", direct.settings)
    assert posterior.plan.story == "'importance': trust"
    assert not posterior.warnings
    loaded = ph.load(posterior.save(tmp_path / "posterior.nc"))
    assert str(loaded.plan) == str(posterior.plan)
    with pytest.raises(ph.SettingError, match="expected a plan with methods"):
        ph.Auto(plan=loaded.plan)


def plan_with(model: ph.Model, *methods: Any, against: tuple[str, ...] = ()) -> ph.Plan:
    """A plan of one's own; the last step answers to some checks."""
    from phlogiston.posterior.plan import step

    plan = ph.recommend(model)
    steps = [step(method, type(method).__name__.lower(), "as the test wants it") for method in methods]
    steps[-1] = replace(steps[-1], against=against)
    return replace(plan, steps=tuple(steps))


SHORT = ph.NUTS(num_samples=3, num_warmup=5, num_chains=2, engine="graph")
POOR = ph.Importance(num_particles=60)


def test_a_refuted_step_is_followed_by_the_next_and_said(load_model: Any) -> None:
    model = load_model("normal_normal").model
    plan = plan_with(model, SHORT, ph.Importance(num_particles=20_000))
    with pytest.warns(ph.PlanWarning, match=r"auto: 'nuts': do not use \(3 draws a chain are too few to judge\)"):
        posterior = ph.infer(model, ph.Auto(plan=plan), seed=0, progress=False)
    assert posterior.method == "importance"
    assert [trial.verdict for trial in posterior.plan.trials] == ["do not use", "trust"]
    assert posterior.plan.taken == 1
    assert "the result is that of 'importance'" in posterior.plan.story
    assert "; taken" in str(posterior.plan)


def test_the_step_that_answers_to_what_failed_comes_first(load_model: Any) -> None:
    model = load_model("normal_normal").model
    last = ph.Importance(num_particles=20_000)
    plan = plan_with(model, SHORT, POOR, last, against=("length",))
    with pytest.warns(ph.PlanWarning):
        posterior = ph.infer(model, ph.Auto(plan=plan), seed=0, progress=False)
    assert [trial.step for trial in posterior.plan.trials] == [0, 2]


def test_the_best_answer_survives_when_all_are_refuted(load_model: Any) -> None:
    model = load_model("normal_normal").model
    plan = plan_with(model, SHORT, POOR, replace(SHORT, num_warmup=6))
    with pytest.warns(ph.PhlogistonWarning) as caught:
        posterior = ph.infer(model, ph.Auto(plan=plan), seed=0, progress=False)
    assert posterior.method == "importance"
    assert posterior.plan.story.endswith("the result is that of 'importance', the best of them")
    assert {w.category for w in caught} == {ph.PlanWarning, ph.WeightWarning}  # what is wrong with it is still said
    with pytest.warns(ph.PhlogistonWarning):
        first = ph.infer(model, ph.Auto(plan=plan, max_steps=1), seed=0, progress=False)
    assert (first.method, len(first.plan.trials)) == ("nuts", 1)


def test_a_step_that_fails_is_told_and_passed_over(load_model: Any) -> None:
    model = load_model("beta_binomial").model
    impossible = ph.Rejection(num_samples=10, max_attempts=1, likelihood_bound=50.0)
    plan = plan_with(model, impossible, ph.Importance(num_particles=20_000))
    with pytest.warns(ph.PlanWarning, match="auto: 'rejection': failed"):
        posterior = ph.infer(model, ph.Auto(plan=plan), seed=0, progress=False)
    assert posterior.method == "importance"
    with pytest.raises(ph.ModelError):
        ph.infer(model, ph.Auto(plan=plan, max_steps=1), seed=0, progress=False)


def test_what_no_method_can_treat_is_refused() -> None:
    def improper_count() -> None:
        pyro.sample("n", dist.Poisson(3.0))
        with pyro.poutine.mask(mask=torch.tensor(False)):
            pyro.sample("masked", dist.Normal(0.0, 1.0))
        pyro.sample("flat", dist.ImproperUniform(dist.constraints.real, (), ()))

    with pytest.raises(ph.UnsupportedModel, match="method 'auto' has no plan for program 'improper_count'"):
        ph.recommend(ph.Model(improper_count))
    with pytest.raises(ph.UnsupportedModel, match="no latent site"):
        ph.recommend(lambda: None)
    with pytest.raises(ph.UnknownName, match="method 'auto' has no setting 'max_step'; did you mean 'max_steps'"):
        ph.infer(ph.Model(improper_count), "auto", max_step=1)
    with pytest.raises(ph.SettingError, match="max_steps: found 0"):
        ph.Auto(max_steps=0)


def test_the_command_line_and_the_page_tell_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from phlogiston.cli import main

    monkeypatch.chdir(tmp_path)
    model = str(Path(__file__).parents[2] / "models" / "hmm.py")
    assert main(["recommend", model]) == 0
    assert "1. exact: all 5 latents are discrete" in capsys.readouterr().out
    arguments = ["run", model, "--method", "auto", "--seed", "0", "--report", "--strict"]
    assert main(arguments) == 0
    assert "-> trust: nothing wrong" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "Choice of method" in page
    assert '<td data-head="why">' in page  # on a phone, cells of sentences stand below each other
    assert "the posterior is counted out" in page
