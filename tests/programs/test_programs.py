"""Each program of the corpus against Pyro: density, gradient, score, tier, roles; a method where one is known."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import phlogiston as ph
from programs import corpus
from programs.case import Case
from programs.oracle import Density

TOLERANCE = 1e-8
NUM_POINTS = 3


def each(test: str, keep: Any = lambda case: True) -> Any:
    """One run of a test for every program that ``keep`` picks; those that the test fails today must fail."""
    cases = []
    for name, case in corpus.CASES.items():
        marks = [pytest.mark.xdist_group(name)]  # one worker runs all tests of a program, which share its traces
        if test in case.wrong_today:
            marks.append(pytest.mark.xfail(strict=True, reason=case.wrong_today[test]))
        if keep(case):
            cases.append(pytest.param(case, id=name, marks=marks))
    return pytest.mark.parametrize("case", cases)


@functools.cache
def model_of(name: str) -> ph.Model:
    case = corpus.CASES[name]
    model = ph.Model(case.program, *case.args)
    return model.observe(missing=case.missing, **case.observed) if case.observed else model


@functools.cache
def pyro_density(name: str) -> Density:
    slots = {slot.site.name: (slot.start, slot.shape) for slot in model_of(name).target("loop").slots}
    return Density(corpus.CASES[name], slots)


def points(dim: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(-1.2, 1.2, (NUM_POINTS if dim else 1, dim)))


@functools.cache
def expected(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pyro's densities ``[P]`` and gradients ``[P, D]`` at the points."""
    found = [pyro_density(name).value_and_grad(u) for u in points(model_of(name).target("loop").dim)]
    return torch.stack([value for value, _ in found]), torch.stack([grad for _, grad in found])


def density(case: Case, tier: str) -> tuple[torch.Tensor, torch.Tensor]:
    target = model_of(case.name).target(tier)
    if not target.dim:  # discrete latents alone: the density is the evidence
        return target.enumerate()[0].reshape(1), torch.zeros(1, 0, dtype=torch.float64)
    return target.value_and_grad(points(target.dim))


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=TOLERANCE, atol=TOLERANCE, check_dtype=False)


def has_density(case: Case) -> bool:
    return not case.refused


@each("density", has_density)
def test_the_density_is_that_of_pyro(case: Case) -> None:
    for tier in ("loop", "graph"):
        close(density(case, tier)[0], expected(case.name)[0])


@each("gradient", has_density)
def test_the_gradient_is_that_of_pyro(case: Case) -> None:
    for tier in ("loop", "graph"):
        close(density(case, tier)[1], expected(case.name)[1])


@each("tier", has_density)
def test_the_density_runs_on_the_tier_of_the_table(case: Case) -> None:
    target = model_of(case.name).target("graph")
    if not target.dim:
        pytest.skip("no continuous latent, so no density in unconstrained coordinates")
    density(case, "graph")
    tier = target.engine_of("density_and_grad")
    if case.loop_today:
        assert tier.startswith("loop (")
        assert case.loop_today in tier
    else:
        assert tier == "graph"


@each("score", has_density)
def test_the_score_of_named_values_is_that_of_pyro(case: Case) -> None:
    target = model_of(case.name).target("loop")
    latents = target.structure.of("latent")
    if any(site.improper for site in latents) or not latents:
        pytest.skip("nothing can be drawn from the prior")
    rows = [pyro_density(case.name).draw([site.name for site in latents], seed) for seed in range(2)]
    values = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    joint, pointwise = target.log_joint(values), target.log_likelihood(values)
    for row in range(2):
        total, terms = pyro_density(case.name).score(rows[row])
        close(joint[row], total)
        for name, found in pointwise.items():
            if target.structure[name].missing is None:
                close(found[row], terms[name].expand(found[row].shape))


@each("roles", lambda case: bool(case.roles))
def test_sites_have_the_roles_of_the_table(case: Case) -> None:
    assert {name: model_of(case.name).sites[name].role for name in case.roles} == dict(case.roles)


@each("density", lambda case: bool(case.refused))
def test_what_has_no_density_is_refused(case: Case) -> None:
    with pytest.raises(ph.ModelError, match=case.refused):
        density(case, "graph")


@each("density", lambda case: case.compiled)
def test_machine_code_says_the_same(case: Case) -> None:
    for found, wanted in zip(density(case, "compiled"), expected(case.name), strict=True):
        close(found, wanted)
    assert model_of(case.name).target("compiled").engine_of("density_and_grad") == "compiled"


@pytest.mark.slow
@each("density", lambda case: not case.compiled and not case.refused and not case.loop_today)
def test_machine_code_of_the_others_says_the_same(case: Case) -> None:
    for found, wanted in zip(density(case, "compiled"), expected(case.name), strict=True):
        close(found, wanted)


@each("answer", lambda case: case.answer is not None)
def test_a_method_finds_the_exact_answer(case: Case) -> None:
    answer = case.answer
    assert answer is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)  # short runs may well deserve them
        posterior = ph.infer(model_of(case.name), answer.method, seed=0, progress=False, **answer.settings)
    if posterior.log_evidence is not None:
        wanted = quadrature(case) if answer.log_evidence is None else answer.log_evidence
        limit = 5.0 * posterior.log_evidence.se + answer.tolerance
        assert abs(posterior.log_evidence.value - wanted) <= limit, (posterior.log_evidence, wanted)
    for name, wanted in answer.mean.items():
        found = posterior.moments(name)
        assert (np.abs(found.mean - np.asarray(wanted)) <= 5.0 * found.mean_se + 1e-9).all(), (found, wanted)


def quadrature(case: Case) -> float:
    """log p(observed), by the trapezoidal rule over one or two unconstrained numbers."""
    target = model_of(case.name).target("graph")
    axis = torch.linspace(-14.0, 14.0, 2801 if target.dim == 1 else 401, dtype=torch.float64)
    mesh = torch.stack(torch.meshgrid(*[axis] * target.dim, indexing="ij"), -1).reshape(-1, target.dim)
    step = float(axis[1] - axis[0])
    return float(torch.logsumexp(target.log_density(mesh), 0)) + target.dim * float(np.log(step))


def test_the_page_of_constructs_names_every_construct() -> None:
    page = (Path(__file__).parents[2] / "docs" / "constructs.md").read_text()
    named = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")} - {"Construct"}
    assert named == {use for case in corpus.CASES.values() for use in case.uses}, "write: make constructs"
    assert f"from the {len(corpus.CASES)} programs" in page


# What machine code does not know of the programs with continuous latents, each with the reason that it gives.
NOT_NATIVE = {
    "conditional_flow": "an index that depends on a latent",
    "data_SineBivariateVonMises": "it asks for the value of a latent",
    "prior_Stable": "it asks for the value of a latent",
    "reparam_by_DiscreteCosineReparam": "the operation _fft_c2r",
    "support_moved_by_a_discrete_latent": "a support that depends on a discrete latent",
}


@each("native", has_density)
def test_native_code_says_the_same(case: Case) -> None:
    target = model_of(case.name).target()
    if not target.dim:
        pytest.skip("no continuous latent, so no density in unconstrained coordinates")
    if case.name in NOT_NATIVE:
        pytest.skip(NOT_NATIVE[case.name])
    value, grad = target.value_and_grad(points(target.dim))
    assert target.engine_of("density_and_grad") == "native"
    wanted, slope = model_of(case.name).target("loop").value_and_grad(points(target.dim))
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grad, slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in NOT_NATIVE if not name.startswith("support")])
def test_what_is_not_native_says_why_and_runs_on_another_tier(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the program's own
        target = model_of(name).target()
        unit = (torch.ones(target.dim, dtype=torch.float64),)
        chains = target.chains(unit, 4, 0)
        value, _ = chains.evaluate(torch.zeros(target.dim, 4, dtype=torch.float64), *unit)
    assert chains.engine.split()[0] in ("graph", "loop")
    assert NOT_NATIVE[name] in target.not_native
    assert torch.isfinite(value).all()
