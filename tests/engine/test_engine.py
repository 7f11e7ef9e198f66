"""The engine: three tiers that agree, programs that cannot be traced, gradients, transforms, globals."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.engine.trace import compile, graph

MODELS = sorted(  # with a reference answer: what has to be trained first has none
    path.stem for path in (Path(__file__).parents[2] / "models").glob("*.py") if "\nreference = " in path.read_text()
)
VARIANTS = [(name, "model") for name in MODELS]
VARIANTS += [("eight_schools", "centred_model"), ("funnel", "centred_model"), ("iris", "logistic_model")]


def points(dim: int, rows: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(-1.5, 1.5, (rows, dim)))


def readings(target: ph.Target, model: ph.Model) -> dict[str, torch.Tensor]:
    """Everything deterministic that a target says, at fixed points."""
    draws = model.simulate(6, seed=0)
    found = {"log_joint": target.log_joint({s.name: draws[s.name] for s in target.structure.of("latent")})}
    if target.dim:
        u = points(target.dim)
        found["density"], found["grad"] = target.value_and_grad(u)
        found |= {f"constrained {name}": value for name, value in target.constrain(u).items()}
    return found


@pytest.mark.parametrize(("name", "attribute"), VARIANTS)
def test_the_graph_says_what_the_program_says(name: str, attribute: str, load_model: Any) -> None:
    model = getattr(load_model(name), attribute)
    loop, fast = (ph.Target(model, engine=tier) for tier in ("loop", "graph"))
    expected, found = readings(loop, model), readings(fast, model)
    for reading, value in expected.items():
        torch.testing.assert_close(found[reading], value, rtol=1e-10, atol=1e-10, msg=reading)
    used = "density_and_grad" if loop.dim else "score"
    assert (loop.engine_of(used), fast.engine_of(used)) == ("loop", "graph")


@pytest.mark.parametrize(("name", "attribute"), VARIANTS)
def test_machine_code_says_what_the_program_says(name: str, attribute: str, load_model: Any) -> None:
    model = getattr(load_model(name), attribute)
    loop, fast = (ph.Target(model, engine=tier) for tier in ("loop", "compiled"))
    if loop.dim:
        u = points(loop.dim)
        expected, found = torch.cat(loop.value_and_grad(u)[1:]), torch.cat(fast.value_and_grad(u)[1:])
        torch.testing.assert_close(fast.value_and_grad(u)[0], loop.value_and_grad(u)[0], rtol=1e-10, atol=1e-10)
    else:
        draws = {s.name: model.simulate(6, seed=0)[s.name] for s in loop.structure.of("latent")}
        expected, found = loop.log_joint(draws), fast.log_joint(draws)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert fast.engine_of("density_and_grad" if loop.dim else "score") == "compiled"


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_finite_differences(name: str, load_model: Any) -> None:
    target = load_model(name).model.target("graph")
    if not target.dim:
        pytest.skip("no continuous latent")
    u, step = points(target.dim, 2), 1e-5
    _, grad = target.value_and_grad(u)
    shifts = step * torch.eye(target.dim, dtype=torch.float64)
    rises = target.log_density(u[:, None] + shifts) - target.log_density(u[:, None] - shifts)
    torch.testing.assert_close(grad, rises / (2 * step), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_unconstrain_inverts_constrain(name: str, load_model: Any) -> None:
    target = load_model(name).model.target("graph")
    if not target.dim:
        pytest.skip("no continuous latent")
    u = points(target.dim)
    torch.testing.assert_close(target.unconstrain(target.constrain(u)), u, rtol=1e-6, atol=1e-6)


def test_supports_may_depend_on_other_latents() -> None:
    def program() -> None:
        alpha = pyro.sample("alpha", dist.Uniform(0.0, 1.0))
        pyro.sample("beta", dist.Uniform(0.0, 1.0 - alpha))

    target = ph.Model(program).target("graph")
    u = points(2, 50)
    values = target.constrain(u)
    assert (values["alpha"] + values["beta"] < 1.0).all()
    sigmoid = torch.sigmoid(u)
    jacobian = (sigmoid * (1 - sigmoid)).log().sum(-1) + torch.log1p(-values["alpha"])
    torch.testing.assert_close(target.log_density(u), jacobian - torch.log1p(-values["alpha"]))


def test_a_flat_prior_has_a_density_and_refuses_to_be_drawn_from() -> None:
    def program() -> None:
        scale = pyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))
        pyro.sample("y", dist.Normal(0.0, scale))

    model = ph.Model(program).observe(y=1.0)
    u = torch.tensor([[0.3]], dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, math.exp(0.3)).log_prob(torch.tensor(1.0)) + 0.3
    assert model.target().log_density(u).item() == pytest.approx(expected.item(), abs=1e-6)
    with pytest.raises(ph.UnsupportedModel, match="site 'scale': found an improper flat prior"):
        model.simulate(3)
    with pytest.raises(ph.UnsupportedModel, match=r"methods that can: .*nuts"):
        ph.infer(model, "importance")


def branches() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(1.0 if x > 0 else -1.0, 1.0))


def leaves_torch() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(float(np.sin(x.detach().numpy())), 1.0))


def uses_another_library() -> None:
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x + torch.as_tensor(np.square(x.detach().numpy())), 1.0))


@pytest.mark.parametrize("program", [branches, leaves_torch, uses_another_library])
def test_a_program_that_cannot_be_traced_runs_in_the_loop_and_says_so(program: Any) -> None:
    model = ph.Model(program).observe(y=0.5)
    target = model.target()
    x = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    loop = ph.Target(model, engine="loop")
    torch.testing.assert_close(target.log_joint({"x": x}), loop.log_joint({"x": x}))
    torch.testing.assert_close(target.log_density(x[:, None]), loop.log_density(x[:, None]))
    posterior = ph.infer(model, "importance", num_particles=300, seed=0, progress=False)
    assert posterior.engine.startswith("loop (")


def test_nuts_samples_a_program_that_cannot_be_traced() -> None:
    with pytest.warns(ph.ConvergenceWarning):
        posterior = ph.infer(
            ph.Model(branches).observe(y=0.5),
            "nuts",
            num_samples=20,
            num_warmup=10,
            num_chains=1,
            max_tree_depth=3,
            seed=0,
        )
    assert posterior.engine.startswith("loop (")


def test_captured_float32_tensors_meet_float64_latents() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    covariance = torch.eye(3)
    weight = torch.nn.Linear(3, 1)

    def program() -> None:
        beta = pyro.sample("beta", dist.MultivariateNormal(torch.zeros(3, dtype=torch.float32), covariance))
        with pyro.plate("row", 20):
            pyro.sample("y", dist.Normal(x @ beta + weight(beta), 1.0))

    model = ph.Model(program).observe(y=np.zeros(20))
    value, grad = model.target("graph").value_and_grad(points(3))
    assert value.dtype == grad.dtype == torch.float64
    assert torch.isfinite(grad).all()


def test_scalar_latents_index_tables_in_a_trace() -> None:
    table = torch.arange(12.0).reshape(3, 4)

    def program() -> None:
        z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        w = pyro.sample("w", dist.Categorical(torch.ones(4)))
        pyro.deterministic("row", table[z])
        pyro.deterministic("column", table[:, w])
        pyro.deterministic("entry", table[z, w])
        pyro.deterministic("hot", torch.nn.functional.one_hot(z, 3))

    draws = ph.Model(program).simulate(200, seed=0, engine="graph")
    z, w = draws["z"], draws["w"]
    torch.testing.assert_close(draws["row"], table.double()[z], check_dtype=False)
    torch.testing.assert_close(draws["column"], table.double().T[w], check_dtype=False)
    torch.testing.assert_close(draws["entry"], table.double()[z, w], check_dtype=False)
    assert (draws["hot"].argmax(-1) == z).all()


PRIORS = {
    "Normal": lambda: dist.Normal(1.0, 2.0),
    "Uniform": lambda: dist.Uniform(-1.0, 3.0),
    "Exponential": lambda: dist.Exponential(2.0),
    "Gamma": lambda: dist.Gamma(2.0, 3.0),
    "InverseGamma": lambda: dist.InverseGamma(5.0, 3.0),
    "Beta": lambda: dist.Beta(2.0, 3.0),
    "StudentT": lambda: dist.StudentT(9.0, 1.0, 2.0),
    "LogNormal": lambda: dist.LogNormal(0.0, 0.5),
    "Laplace": lambda: dist.Laplace(1.0, 2.0),
    "Gumbel": lambda: dist.Gumbel(1.0, 2.0),
    "HalfNormal": lambda: dist.HalfNormal(2.0),
    "Poisson": lambda: dist.Poisson(3.0),
    "Bernoulli": lambda: dist.Bernoulli(0.3),
    "Binomial": lambda: dist.Binomial(10, 0.3),
    "Geometric": lambda: dist.Geometric(0.4),
    "Categorical": lambda: dist.Categorical(torch.tensor([0.2, 0.5, 0.3])),
    "Dirichlet": lambda: dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
    "MultivariateNormal": lambda: dist.MultivariateNormal(torch.ones(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    "OneHotCategorical": lambda: dist.OneHotCategorical(torch.tensor([0.2, 0.5, 0.3])),
}


@pytest.mark.parametrize("family", PRIORS)
def test_batched_prior_draws_have_the_moments_of_their_distribution(family: str) -> None:
    draws = ph.Model(lambda: pyro.sample("z", PRIORS[family]())).simulate(20_000, seed=1)["z"].double()
    if family == "Categorical":
        frequencies = torch.bincount(draws.long(), minlength=3) / 20_000
        torch.testing.assert_close(frequencies, torch.tensor([0.2, 0.5, 0.3]), atol=0.015, rtol=0, check_dtype=False)
        return
    exact = PRIORS[family]()
    sd = exact.variance.sqrt().double()
    assert (draws.mean(0) - exact.mean).abs().le(4.5 * sd / math.sqrt(20_000)).all()
    assert (draws.std(0) / sd - 1.0).abs().max() < 0.08


def test_randomness_with_latent_parameters_is_batched_too() -> None:
    def program() -> None:
        shape = pyro.sample("shape", dist.Uniform(1.0, 5.0))
        pyro.sample("gamma", dist.Gamma(shape, 1.0))
        rate = pyro.sample("rate", dist.Uniform(1.0, 5.0))
        pyro.sample("count", dist.Poisson(rate))
        pyro.sample("flips", dist.Binomial(10, rate / 10.0))

    draws = ph.Model(program).simulate(20_000, seed=0)
    assert torch.corrcoef(torch.stack([draws["shape"], draws["gamma"]]))[0, 1] > 0.4
    residual = draws["count"].double() - draws["rate"]
    assert abs(float(residual.mean())) < 4 * float(residual.std()) / math.sqrt(20_000)


@pytest.mark.parametrize("chance", [0.25, 0.5])
def test_dropout_inside_a_program_leaves_out_its_share_and_follows_the_seed(chance: float) -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(torch.ones(8), 0.01).to_event(1))
        pyro.deterministic("x", torch.nn.functional.dropout(z, chance))

    first, again = (ph.Model(program).simulate(1000, seed=1)["x"] for _ in range(2))
    kept = first != 0.0
    assert torch.equal(first, again)
    assert abs(float(kept.double().mean()) - (1.0 - chance)) < 4.0 * math.sqrt(chance * (1.0 - chance) / 8000)
    assert kept.float().mean(0).std() < 0.1  # every entry has its own chance
    assert abs(float(first[kept].mean()) * (1.0 - chance) - 1.0) < 0.01


def test_machine_code_is_kept_on_disk_and_serves_other_data(load_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path))
    model = load_model("gamma_poisson").model
    first = ph.Target(model, engine="compiled").value_and_grad(points(1, 4))
    files = list(tmp_path.glob("*.inductor"))
    assert len(files) == 1
    stamp = files[0].stat().st_mtime_ns
    other = model.observe(y=torch.tensor([1.0, 1.0, 1.0, 1.0]))
    second = ph.Target(other, engine="compiled").value_and_grad(points(1, 4))
    torch.testing.assert_close(second, ph.Target(other, engine="loop").value_and_grad(points(1, 4)))
    assert not torch.equal(first[0], second[0])
    assert [file.stat().st_mtime_ns for file in tmp_path.glob("*.inductor")] == [stamp]


AT_THE_EDGE_OF_MEMORY = """
import ctypes, mmap
import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from phlogiston.engine.trace.compile import compile_graph

rows, columns, page = 6, 4, mmap.PAGESIZE
pages = mmap.mmap(-1, 2 * page)
address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + page), page, 0) == 0  # the second page cannot be read
last = np.frombuffer(pages, dtype=np.float64, count=rows * columns, offset=page - 8 * rows * columns)
x = torch.from_numpy(last.reshape(rows, columns))
x.copy_(torch.arange(24.0).reshape(rows, columns))

def padded(x):
    return (torch.constant_pad_nd(x * torch.ones(rows, 1, dtype=x.dtype), [0, 0, 2, 0]) + 1.0,)

code = compile_graph(make_fx(padded)(x.clone()), [x])
assert torch.equal(code(x)[0], padded(x)[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page by the C library")
def test_machine_code_does_not_read_past_the_end_of_an_array(tmp_path: Path) -> None:
    settings = {**os.environ, "PHLOGISTON_CACHE": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", AT_THE_EDGE_OF_MEMORY], env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr or f"killed by signal {-run.returncode}"


def test_the_public_compiler_is_the_fallback(load_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    import torch._inductor

    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path))
    monkeypatch.delattr(torch._inductor, "standalone_compile")
    target = ph.Target(load_model("normal_normal").model, engine="compiled")
    loop = ph.Target(load_model("normal_normal").model, engine="loop")
    torch.testing.assert_close(target.value_and_grad(points(1, 4)), loop.value_and_grad(points(1, 4)))
    assert target.engine_of("density_and_grad") == "compiled"
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_the_graph_runs_and_the_result_says_why(load_model: Any, monkeypatch: Any) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(compile, "_compile", broken)
    monkeypatch.setattr(compile, "_load", lambda path: None)
    target = ph.Target(load_model("normal_normal").model, engine="compiled")
    target.value_and_grad(points(1, 4))
    assert target.engine_of("density_and_grad") == "graph (not compiled: RuntimeError: no C++ compiler)"


def test_a_damaged_cache_file_is_replaced(load_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path))
    model = load_model("normal_normal").model
    expected = ph.Target(model, engine="compiled").value_and_grad(points(1, 2))
    (file,) = tmp_path.glob("*.inductor")
    file.write_bytes(b"cut short")
    torch.testing.assert_close(ph.Target(model, engine="compiled").value_and_grad(points(1, 2)), expected)


def test_a_graph_branches_are_refused_by_name() -> None:
    with pytest.raises(ph.UntraceableProgram, match="branches on the value of a latent"):
        graph.trace_single(lambda v: {"y": v["x"] if v["x"] > 0 else -v["x"]}, {"x": torch.tensor(1.0)})


def test_python_and_numpy_randomness_inside_a_program_is_refused_at_its_line() -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z + random.random(), 1.0))

    with pytest.raises(
        ph.ModelError, match=r"test_engine.py:\d+: .*random\.random\(\).*: found Python's global generator"
    ):
        ph.infer(ph.Model(program).observe(y=0.0), "importance", num_particles=400, seed=0, progress=False)


def tied_by_a_factor() -> None:
    with pyro.plate("i", 4):
        s = pyro.sample("s", dist.Bernoulli(0.5))
    pyro.factor("f", s.sum())


def tied_by_an_observation() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("i", 4):
        s = pyro.sample("s", dist.Bernoulli(0.5))
    pyro.sample("y", dist.Normal(s.sum(-1) + mu, 1.0), obs=torch.tensor(1.0))


@pytest.mark.parametrize(
    ("program", "method", "site"), [(tied_by_a_factor, "exact", "f"), (tied_by_an_observation, "nuts", "y")]
)
def test_elements_that_are_tied_together_are_not_summed_out_one_by_one(program: Any, method: str, site: str) -> None:
    with pytest.raises(ph.UnsupportedModel, match=f"site 's': found elements of one plate that site '{site}' ties"):
        ph.infer(ph.Model(program), method, seed=0, progress=False)
    found = ph.infer(ph.Model(program), "gibbs", num_samples=500, num_chains=16, seed=0, progress=False).moments("s")
    total = torch.arange(5.0)
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    weights = weights * (total.exp() if site == "f" else torch.exp(-((1.0 - total) ** 2) / 4.0))
    exact = float((weights * total).sum() / weights.sum()) / 4.0
    assert (abs(found.mean - exact) < 4.5 * found.mean_se).all()


def test_a_scaled_latent_is_traced_and_weighed_by_its_scale() -> None:
    def program() -> None:
        with pyro.poutine.scale(scale=0.5):
            mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("i", 3):
            pyro.sample("y", dist.Normal(mu, 1.0))

    post = ph.infer(ph.Model(program).observe(y=[0.0, 1.0, 2.0]), "importance", seed=0, progress=False)
    assert post.engine == "graph"
    found = post.expect("mu")
    assert abs(float(found.value) - 3.0 / 3.125) < 4.0 * float(found.se)


def branching(y: list[float], **kind: Any) -> ph.Model:
    def program() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        seen = pyro.sample("y", dist.Normal(mu, 1.0).expand([2]).to_event(1))
        wide = kind["numpy"](seen) if "numpy" in kind else torch.ones(())
        pyro.sample("w", dist.Normal(mu, 1.0 + wide))

    return ph.Model(program).observe(y=y, w=0.5)


def test_models_of_other_data_share_their_traces_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    made, usual = [], graph.trace_single

    def counted(*args: Any) -> Any:
        made.append(1)
        return usual(*args)

    monkeypatch.setattr(graph, "trace_single", counted)
    family = branching([0.0, 1.0]).for_many_data("y")
    u = points(1)
    for i, y in enumerate(([3.0, -1.0], [0.5, 8.0], [2.0, 2.0])):
        member, alone = family.observe(y=y), branching(y)
        found = member.target("graph")
        before = len(made)
        values = (found.log_density(u), *found.value_and_grad(u), found.constrain(u)["mu"])
        assert len(made) - before == (4 if i == 0 else 0)  # with the prior draws that judge whether graphs will do
        loop = alone.target("loop")
        for value, expected in zip(values, (loop.log_density(u), *loop.value_and_grad(u), u[:, 0]), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        chains = found.chains((torch.ones(1, dtype=torch.float64),), 6, 1)
        torch.testing.assert_close(chains.evaluate(u.mT, torch.ones(1, dtype=torch.float64))[0], values[0])


def test_data_that_leave_torch_are_traced_anew_for_each_model() -> None:
    def spread(seen: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(float(np.abs(np.asarray(seen.detach().tolist())).sum()))

    family, u = branching([0.0, 1.0], numpy=spread).for_many_data("y"), points(1)
    for y in ([3.0, -1.0], [0.5, 8.0], [2.0, 2.0]):
        expected = branching(y, numpy=spread).target("loop").log_density(u)
        torch.testing.assert_close(family.observe(y=y).target("graph").log_density(u), expected)
