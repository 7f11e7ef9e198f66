"""The method that the library chooses by itself, against a table that was written before the code."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import phlogiston as ph


@dataclass(frozen=True)
class Right:
    """The right first choice for a model, and why.

    ``says`` are words that the reason of the choice has to hold.
    """

    name: str
    model: Callable[[], ph.Model]
    first: str
    why: str
    says: tuple[str, ...] = ()
    reparameterised: bool = False


def of_file(name: str, attribute: str = "model") -> Callable[[], ph.Model]:
    def build() -> ph.Model:
        from conftest import _load_model

        return getattr(_load_model(name), attribute)

    return build


def of_choices(name: str) -> Callable[[], ph.Model]:
    def build() -> ph.Model:
        from conftest import _load_model

        return _load_model("choices").CASES[name]().model

    return build


def of_posteriordb(name: str) -> Callable[[], ph.Model]:
    def build() -> ph.Model:
        from models import posteriordb

        return posteriordb.load(name).model()

    return build


def logistic_regression() -> ph.Model:
    import numpy as np
    import torch
    from conftest import _load_model

    iris = _load_model("iris")
    rows = np.asarray(iris.train)
    return ph.Model(iris.logistic, iris.standardised(rows)).observe(species=torch.tensor(iris.labels[rows]))


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
    Right("many_rows", of_choices("many_rows"), "svi", "6,000 latents, two a row, independent rows", ("row", "6,000")),
    Right("vae_digits", of_file("vae_digits"), "svi", "3,000 latents under a network", ("image", "3,000")),
)


def params(table: tuple[Right, ...]) -> list[Any]:
    missing = not os.environ.get("POSTERIORDB")
    skipped = pytest.mark.skip(reason="POSTERIORDB is not set")
    return [
        pytest.param(
            right, id=right.name, marks=[skipped] if missing and "posteriordb" in right.model.__qualname__ else []
        )
        for right in table
    ]


def test_the_table_has_every_kind_of_choice() -> None:
    assert len(TABLE) >= 20
    assert len({right.name for right in TABLE}) == len(TABLE)
    assert {right.first for right in TABLE} == {
        "exact", "gibbs", "importance", "laplace", "nuts", "smc", "mh", "svi",
    }  # fmt: skip
