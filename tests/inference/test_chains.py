"""Running chains: blocks, executors, continuing, stopping, starting, and trouble on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import phlogiston as ph
from phlogiston.engine.densities.chains import scaled, scaled_rows
from phlogiston.inference.mcmc import nuts as nuts_kernel
from phlogiston.inference.mcmc import precompile, trees
from phlogiston.inference.mcmc.gibbs import GibbsBlock
from phlogiston.inference.mcmc.hmc import HmcBlock
from phlogiston.inference.mcmc.metropolis import WalkBlock

TINY = {"num_samples": 40, "num_warmup": 40, "progress": False}


@pytest.fixture(autouse=True)
def _no_advice() -> Any:
    """Chains this short are rightly found wanting."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        yield


def correlated(correlation: float = 0.95) -> None:
    cov = torch.tensor([[1.0, 10.0 * correlation], [10.0 * correlation, 100.0]])
    pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), cov))


def mixture() -> None:
    weight = pyro.sample("weight", dist.Uniform(0.0, 1.0))
    with pyro.plate("data", 3):
        z = pyro.sample("z", dist.Bernoulli(weight))
        pyro.sample("x", dist.Normal(2.0 * z - 1.0, 1.0))


MIXTURE = ph.Model(mixture).observe(x=[-1.5, 0.3, 2.0])


def same(a: ph.Posterior, b: ph.Posterior) -> bool:
    return all(torch.equal(a.draws[name], b.draws[name]) for name in a.draws) and all(
        torch.equal(a.stats[name], b.stats[name]) for name in a.stats
    )


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        pytest.param(ph.Model(correlated), "compiled", id="continuous-compiled"),
        pytest.param(MIXTURE, "graph", id="discrete-graph"),
        pytest.param(ph.Model(correlated), "graph", id="continuous-graph", marks=pytest.mark.slow),
        pytest.param(MIXTURE, "compiled", id="discrete-compiled", marks=pytest.mark.slow),
    ],
)
def test_two_runs_are_one_bit_for_bit_from_memory_and_from_disk(model: ph.Model, engine: str, tmp_path: Path) -> None:
    settings = {"num_warmup": 40, "engine": engine, "progress": False, "seed": 3}
    whole = ph.infer(model, "nuts", num_samples=40, **settings)
    half = ph.infer(model, "nuts", num_samples=15, **settings)
    assert same(whole, ph.infer(model, "nuts", num_samples=25, resume_from=half, **settings))
    loaded = ph.load(half.save(tmp_path / "half.nc"))
    assert same(whole, ph.infer(model, "nuts", num_samples=25, resume_from=loaded, **settings))


@pytest.mark.parametrize("kind", ["diag", "dense", "low_rank"])
def test_a_row_is_scaled_alike_in_any_company(kind: str) -> None:
    rng = torch.Generator().manual_seed(0)
    x, wide = torch.randn(300, 10, generator=rng).double(), torch.rand(10, generator=rng).double() + 0.5
    vectors, extra = (
        torch.linalg.qr(torch.randn(10, 3, generator=rng).double())[0],
        torch.rand(3, generator=rng).double(),
    )
    dense = torch.randn(10, 10, generator=rng).double()
    scale = {"diag": (wide,), "dense": (dense,), "low_rank": (wide, vectors, extra)}[kind]
    whole = scaled_rows(x, scale)
    torch.testing.assert_close(whole, scaled(x.mT, scale).mT)
    assert all(torch.equal(scaled_rows(x[i : i + 37], scale), whole[i : i + 37]) for i in (0, 1, 30, 200))


def test_going_on_with_other_chains_or_another_method_is_refused() -> None:
    half = ph.infer(ph.Model(correlated), "nuts", **TINY)
    with pytest.raises(ph.SettingError, match="resume_from: found 4 chains in 1 blocks; expected 6 chains"):
        ph.infer(ph.Model(correlated), "nuts", num_chains=6, resume_from=half, **TINY)
    weighted = ph.infer(ph.Model(correlated), "importance", num_particles=100)
    with pytest.raises(ph.SettingError, match="expected a posterior of 'nuts'"):
        ph.infer(ph.Model(correlated), "nuts", resume_from=weighted, **TINY)
    with pytest.raises(TypeError, match=r"method 'importance' takes no resume_from; methods that do: .*nuts"):
        ph.infer(ph.Model(correlated), "importance", resume_from=half)


def test_workers_make_no_difference_and_programs_may_be_local() -> None:
    scale = 2.0
    model = ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, scale)))
    settings = {"num_chains": 6, "chains_per_block": 2, "seed": 1, **TINY}
    here = ph.infer(model, "nuts", **settings)
    with ThreadPoolExecutor(2) as threads:
        assert same(here, ph.infer(model, "nuts", executor=threads, **settings))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        assert same(here, ph.infer(model, "nuts", executor=processes, **settings))
    assert here.draws["z"].shape == (6, 40)
    assert len(torch.unique(here.draws["z"][:, 0])) == 6  # no two chains share a stream


def test_a_killed_worker_is_an_error_with_chains_and_exit_code() -> None:
    def deadly() -> None:
        if os.environ.get("PHLOGISTON_TEST_DEADLY") != str(os.getpid()):
            os.kill(os.getpid(), signal.SIGKILL)
        pyro.sample("z", dist.Normal(0.0, 1.0))

    os.environ["PHLOGISTON_TEST_DEADLY"] = str(os.getpid())
    dies = pytest.raises(ph.WorkerDied, match=r"exit code -9 while it ran chains 0 to 1, chains 2 to 3")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes, dies:
        ph.infer(ph.Model(deadly), "nuts", num_chains=4, chains_per_block=2, executor=processes, **TINY)


def test_ctrl_c_returns_chains_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = nuts_kernel.advance, []

    def interrupted(*args: Any) -> Any:
        calls.append(args[-1].grads.shape[1] == 0)  # sampling
        if sum(calls) == 60:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(nuts_kernel, "advance", interrupted)
    settings = {"num_samples": 1000, "num_warmup": 40, "seed": 0, "engine": "graph", "progress": False}
    posterior = ph.infer(ph.Model(correlated), "nuts", **settings)
    assert posterior.interrupted
    assert posterior.draws["x"].shape[0] == 4
    assert 1 <= posterior.num_draws < 60
    assert torch.isfinite(posterior.draws["x"]).all()
    assert (posterior.stats["n_steps"] > 0).all()


def test_ctrl_c_between_batches_of_machine_code_keeps_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = nuts_kernel.advance_until, []

    def interrupted(trees: Any, call: Any, step_size: float, depth: int, rows: Any, until: Any) -> Any:
        calls.append(rows.grads.shape[1] == 0)  # sampling
        if sum(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return original(trees, call, step_size, depth, rows, until)

    monkeypatch.setattr(nuts_kernel, "advance_until", interrupted)
    posterior = ph.infer(ph.Model(correlated), "nuts", num_samples=100_000, num_warmup=40, seed=0, progress=False)
    assert posterior.engine == "native"
    assert posterior.interrupted
    assert posterior.draws["x"].shape[0] == 4
    assert 1 <= posterior.num_draws < 100_000
    assert torch.isfinite(posterior.draws["x"]).all()


@pytest.mark.parametrize(("method", "block"), [("hmc", HmcBlock), ("mh", WalkBlock), ("gibbs", GibbsBlock)])
def test_a_run_continues_from_the_draws_that_ctrl_c_left(
    method: str, block: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"num_warmup": 40, "num_chains": 4, "progress": False}
    whole = ph.infer(ph.Model(correlated), method, num_samples=30, seed=0, **settings)
    original, reports = block.sample, []

    def interrupted(self: Any, density: Any, state: Any, num_samples: int, _: Any) -> Any:
        def report(*told: Any) -> None:
            reports.append(told)
            if len(reports) == 10:
                raise KeyboardInterrupt

        return original(self, density, state, num_samples, report)

    with monkeypatch.context() as patched:
        patched.setattr(block, "sample", interrupted)
        first = ph.infer(ph.Model(correlated), method, num_samples=30, seed=0, **settings)
    assert first.interrupted
    assert first.num_draws == 10
    both = ph.infer(ph.Model(correlated), method, num_samples=20, resume_from=first, **settings)
    assert torch.equal(both.draws["x"], whole.draws["x"])


def test_ctrl_c_reaches_the_blocks_of_an_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = nuts_kernel.advance, []

    def interrupted(*args: Any) -> Any:
        calls.append(args[-1].grads.shape[1] == 0)  # sampling
        if sum(calls) == 60:
            os.kill(os.getpid(), signal.SIGINT)  # to the main thread, which waits
        return original(*args)

    monkeypatch.setattr(nuts_kernel, "advance", interrupted)
    settings = {"num_chains": 4, "chains_per_block": 2, "num_samples": 100_000, "num_warmup": 40, "seed": 0}
    settings["engine"] = "graph"
    with ThreadPoolExecutor(1) as threads:
        posterior = ph.infer(ph.Model(correlated), "nuts", executor=threads, progress=False, **settings)
    assert posterior.interrupted
    assert posterior.draws["x"].shape[0] == 2  # the other block had not begun
    assert 1 <= posterior.num_draws < 100_000
    assert torch.isfinite(posterior.draws["x"]).all()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_keeps_the_draws_of_every_process(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        """
import os, signal, threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import torch, pyro, pyro.distributions as dist, phlogiston as ph

def program():
    pyro.sample("z", dist.Normal(0.0, 1.0))

if __name__ == "__main__":
    os.setpgrp()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        settings = dict(num_chains=4, chains_per_block=2, num_warmup=20, executor=processes, progress=False, seed=0)
        ph.infer(ph.Model(program), "nuts", num_samples=20, **settings)  # both workers are awake
        threading.Timer(3.0, lambda: os.killpg(0, signal.SIGINT)).start()
        post = ph.infer(ph.Model(program), "nuts", num_samples=2_000_000, **settings)
        print("chains", post.num_chains, "interrupted", post.interrupted, "some", 0 < post.num_draws < 2_000_000)
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert "chains 4 interrupted True some True" in done.stdout, done.stderr


def test_ctrl_c_in_warm_up_raises_as_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(nuts_kernel, "advance_until", interrupted)
    with pytest.raises(KeyboardInterrupt, match="before there were draws to keep"):
        ph.infer(ph.Model(correlated), "nuts", **TINY)


@pytest.mark.parametrize("mass_matrix", ["diag", "dense", "low_rank"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_mass_matrix_gives_the_moments_of_a_correlated_normal(mass_matrix: str, dtype: str) -> None:
    posterior = ph.infer(
        ph.Model(correlated),
        ph.NUTS(num_chains=32, num_samples=200, num_warmup=150, mass_matrix=mass_matrix, dtype=dtype),
        seed=7,
        progress=False,
    )
    assert posterior.draws["x"].dtype == getattr(torch, dtype)
    found = posterior.moments("x")
    assert (np.abs(found.mean) < 4 * found.mean_se).all()
    assert (np.abs(found.sd - [1.0, 10.0]) < 4 * found.sd_se).all()
    product = posterior.expect(lambda draw: draw["x"][0] * draw["x"][1])
    assert abs(product.value - 9.5) < 4 * product.se
    if mass_matrix != "diag":  # the target is a standard normal then: three doublings at most, mostly
        assert posterior.stats["n_steps"].double().mean() < 8


def test_starting_values_by_site_and_by_name() -> None:
    def program() -> None:
        pyro.sample("a", dist.Normal(5.0, 0.01))
        pyro.sample("b", dist.LogNormal(0.0, 1.0))

    model = ph.Model(program)
    for initial in ("prior", "median", {"a": 5.0, "b": [1.0, 2.0, 3.0, 4.0]}):
        posterior = ph.infer(
            model, ph.NUTS(num_warmup=0, num_samples=1, step_size=1e-6, max_tree_depth=1, initial=initial), seed=0
        )
        assert (posterior.draws["a"] - 5.0).abs().max() < 0.2
    torch.testing.assert_close(
        posterior.draws["b"][:, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), rtol=1e-2, atol=0
    )
    for initial, message in (
        ({"a": 5.0}, "initial, site 'b': found no value"),
        ({"a": 5.0, "c": 1.0}, "initial: found site 'c'"),
        ({"a": [1.0, 2.0], "b": 1.0}, r"initial, site 'a': found shape \(2,\); expected \(\) or \(4,\)"),
        ("nowhere", "initial: found 'nowhere'"),
    ):
        with pytest.raises(ph.SettingError, match=message):
            ph.infer(model, ph.NUTS(initial=initial, num_samples=5, num_warmup=5))


def test_a_start_without_a_density_names_the_site_and_its_value() -> None:
    def program() -> None:
        a = pyro.sample("a", dist.Normal(0.0, 0.1))
        pyro.sample("b", dist.Normal(0.0, (4.0 - a).sqrt()))

    with pytest.raises(ph.ModelError, match=r"starting point, site 'b': found a log probability of nan at 1.5"):
        ph.infer(ph.Model(program), "nuts", initial={"a": 5.0, "b": 1.5}, **TINY)


@pytest.mark.parametrize("engine", ["graph", "compiled", "loop"])
def test_a_density_that_turns_nan_is_a_divergence_and_the_chain_goes_on(engine: str) -> None:
    def program() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("hole", torch.where(z > 1.0, torch.nan, 0.0))

    settings = {"num_chains": 2, "num_samples": 100, "num_warmup": 50} if engine == "loop" else {"num_chains": 16}
    posterior = ph.infer(ph.Model(program), ph.NUTS(engine=engine, initial={"z": 0.0}, **settings), seed=0)
    assert (posterior.draws["z"] <= 1.0).all()
    assert posterior.stats["diverging"].any()
    if engine != "loop":
        exact = torch.distributions.Normal(0.0, 1.0)
        mean = -float(exact.log_prob(torch.tensor(1.0)).exp() / exact.cdf(torch.tensor(1.0)))
        found = posterior.moments("z")
        assert abs(found.mean - mean) < 4 * found.mean_se


@pytest.mark.parametrize("engine", ["graph", pytest.param("compiled", marks=pytest.mark.slow), "loop"])
def test_a_cholesky_failure_is_a_divergence_and_not_a_crash(engine: str) -> None:
    def program() -> None:
        rho = pyro.sample("rho", dist.Normal(0.0, 0.5))
        cov = torch.eye(2) + rho * torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # not positive definite beyond 1
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), cov))

    model = ph.Model(program).observe(x=[0.5, -0.5])
    method = ph.NUTS(engine=engine, initial={"rho": 0.0}, num_samples=60, num_warmup=40)
    posterior = ph.infer(model, method, seed=0, progress=False)
    assert (posterior.draws["rho"].abs() < 1.0).all()
    assert torch.isfinite(posterior.stats["lp"]).all()


def test_the_largest_tree_is_counted_and_advised() -> None:
    model = ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
    posterior = ph.infer(
        model, ph.NUTS(max_tree_depth=2, step_size=0.01, num_warmup=0, num_samples=50), seed=0, progress=False
    )
    full = posterior.stats["reached_max_treedepth"]
    assert full.double().mean() > 0.95  # a momentum may happen to be so small that even this way turns back
    assert (posterior.stats["n_steps"][full] == 3).all()
    assert (posterior.stats["tree_depth"][full] == 2).all()
    assert any("raise max_tree_depth" in line for line in posterior.warnings)


def test_statistics_have_their_names_types_and_meaning() -> None:
    posterior = ph.infer(ph.Model(correlated), "nuts", num_chains=8, seed=0, progress=False)
    stats = posterior.stats
    assert set(stats) == {
        "lp", "energy", "acceptance_rate", "n_steps", "tree_depth", "diverging", "step_size", "reached_max_treedepth",
    }  # fmt: skip
    assert stats["diverging"].dtype == torch.bool
    assert stats["n_steps"].dtype == torch.int64
    x = posterior.draws["x"]
    torch.testing.assert_close(stats["lp"], posterior.model.target("graph").log_density(x))
    kinetic = stats["energy"] + stats["lp"]
    assert (kinetic >= 0).all()
    assert abs(float(kinetic.mean()) - 1.0) < 0.1  # D / 2 for a normal momentum
    assert abs(float(stats["acceptance_rate"].mean()) - 0.8) < 0.08
    doublings = torch.floor(torch.log2(stats["n_steps"].double())) + 1
    assert (stats["tree_depth"] == doublings).all()
    assert (stats["step_size"] == stats["step_size"][:, :1]).all()


def test_a_chain_in_a_narrow_neck_goes_on_in_smaller_steps(load_model: Any) -> None:
    schools = load_model("eight_schools")
    model = ph.Model(schools.centred, schools.sigma).observe(y=schools.y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ph.PhlogistonWarning)
        for seed in range(2):
            diverging = ph.infer(model, "nuts", seed=seed, progress=False).stats["diverging"]
            assert int(diverging.sum(1).max()) < 500  # a chain that is stuck diverges in all of its 1,000 draws


def test_machine_code_that_is_compiled_ahead_is_what_chains_call() -> None:
    precompile.compile_trees("float64")
    ready = set(trees.advance.signatures), set(trees.start_transitions.signatures)  # type: ignore[attr-defined]
    ph.infer(ph.Model(correlated), "nuts", seed=0, **TINY)
    assert (set(trees.advance.signatures), set(trees.start_transitions.signatures)) == ready  # type: ignore[attr-defined]
    assert precompile.begin("float64") is None, "it is on disk"


@pytest.mark.slow
def test_the_first_run_on_a_machine_loads_what_another_process_compiled(tmp_path: Path) -> None:
    program = """
from phlogiston.inference.mcmc import precompile, trees
from phlogiston.inference.mcmc.gibbs import GibbsBlock
from phlogiston.inference.mcmc.hmc import HmcBlock
from phlogiston.inference.mcmc.metropolis import WalkBlock
wait = precompile.begin("float64")
assert wait is not None
wait()
precompile.compile_trees("float64")
assert sum(trees.advance.stats.cache_hits.values()) == 1 and not trees.advance.stats.cache_misses
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
