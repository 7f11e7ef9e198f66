"""The command line, in process: what is printed, what is written, and with which code it ends."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import phlogiston as ph
from phlogiston.cli import datafile, main
from phlogiston.cli.arguments import setting
from phlogiston.inference import registry
from phlogiston.report.plots import Plots

MODEL = """
import pyro
import pyro.distributions as dist
import torch

import phlogiston as ph


def heights(scale, shift=0.0):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("person", len(scale)):
        pyro.sample("y", dist.Normal(mu + shift, scale))


def sprinkler(wet):
    rain = pyro.sample("rain", dist.Bernoulli(torch.tensor(0.2)))
    pyro.sample("grass", dist.Bernoulli(0.1 + 0.8 * rain), obs=wet)


def two(scale):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("person", 3):
        pyro.sample("y", dist.Normal(mu, scale))


scale = torch.ones(3, dtype=torch.float64)
y = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
model = ph.Model(heights, scale, coords={"person": ["ann", "bob", "cy"]}).observe(y=y)
grass = ph.Model(sprinkler, torch.tensor(1.0))
fixed = ph.Model(two, scale).observe(y=y)
number = 7
"""
ONE = ["--method", "importance", "--set", "num_particles=1000", "--seed", "0"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("check", "m.py")`` in a folder with the models above in m.py: code, stdout, stderr."""
    (tmp_path / "m.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def refused(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """The command failed with this code and with nothing but one line that holds these parts."""
    assert result[:2] == (code, "")
    assert result[2].startswith("phlogiston: error: ")
    assert result[2].count("\n") == 1
    assert "Traceback" not in result[2]
    for part in parts:
        assert part in result[2]


# What needs no model ---------------------------------------------------------------------------------------------


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"phlogiston {ph.__version__}\n", "")


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["methods"]])
def test_help_lists_the_exit_codes(run: Run, command: list[str]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    for line in ("0    done", "1    the model", "2    wrong usage", "3    run --strict", "130  stopped by Ctrl-C"):
        assert line in out


def test_help_and_mistakes_need_no_torch() -> None:
    code = f"""
import sys
from phlogiston.cli import datafile, main
codes = [main(["--help"]), main(["run", "x.py"]), main(["run", "absent.py", "--method", "nuts"])]
codes.append(main(["run", {__file__!r}, "--method", "nutz"]))
assert codes == [0, 2, 1, 2], codes
assert not {{"torch", "pyro", "xarray", "arviz", "pandas"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_python_dash_m(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["phlogiston", "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("phlogiston", run_name="__main__")
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("phlogiston ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: command; see phlogiston --help"),
        (["burn"], "invalid choice: 'burn'"),
        (["run", "m.py"], "required: --method; see phlogiston run --help"),
        (["run", "m.py", *ONE, "--loud"], "unrecognized arguments: --loud"),
        (["run", "m.py", *ONE, "--seed", "-1"], "argument --seed: found '-1'; expected an integer, zero or above"),
        (["run", "m.py", *ONE, "--set", "num_samples"], "--set: found 'num_samples'; expected NAME=VALUE"),
        (["run", "m.py", *ONE, "--set", "=3"], "--set: found '=3'; expected NAME=VALUE"),
        (["run", "m.py", *ONE, "--set", "a="], "--set: found 'a='; expected NAME=VALUE"),
        (["run", "m.py", "--method", "nutz"], "unknown method 'nutz'; did you mean 'nuts'? (known: "),
        (["run", "m.py", "--method", "nuts", "--set", "sample=3"], "no setting 'sample'; did you mean 'num_samples'?"),
        (["run", "m.py", *ONE, "--set", "seed=3"], "no setting 'seed'"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], message: str) -> None:
    refused(run(*arguments), 2, message)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n=500", 500),
        ("n=1e-3", 1e-3),
        ("n=None", None),
        ("n=True", True),
        ("n={'y': 0.5}", {"y": 0.5}),
        ("n=dense", "dense"),
        ("n='3'", "3"),
        ("n=a=b", "a=b"),
        (" n = [1, 2] ", [1, 2]),
    ],
)
def test_values_are_python_literals_else_strings(text: str, value: object) -> None:
    assert setting(text) == ("n", value)


def test_methods(run: Run) -> None:
    code, out, err = run("methods")
    assert (code, err) == (0, "")
    for name in registry.METHODS:
        assert f"\n{name}: " in f"\n{out}"
    assert "  source    Hoffman and Gelman 2014" in out
    assert "  needs     any latents; proper priors" in out
    assert "  settings  num_particles=10000, proposal='prior'" in out
    assert max(map(len, out.splitlines())) <= 100


def test_methods_as_markdown(run: Run) -> None:
    code, out, _ = run("methods", "--markdown")
    head, rule, *rows = out.splitlines()
    assert code == 0
    assert head == "| method | needs | settings and defaults | source |"
    assert rule == "|---|---|---|---|"
    assert [row.split(" | ")[0] for row in rows] == [f"| `{name}`" for name in (*registry.METHODS, "auto")]
    assert all(row.count(" | ") == 3 for row in rows)
    assert "`target_accept_prob=0.8`" in out


# check -----------------------------------------------------------------------------------------------------------


def test_check_lists_the_sites(run: Run) -> None:
    code, out, err = run("check", "m.py")
    assert (code, err) == (0, "")
    head, _, mu, y, *rest = [line.split() for line in out.splitlines()]
    assert head == ["site", "role", "shape", "distribution", "support", "plates"]
    assert mu == ["mu", "latent", "scalar", "Normal", "Real", "-"]
    assert y == ["y", "observed", "[3]", "Normal", "Real", "person[3]"]
    assert rest == [[], ["no", "problems", "found"]]


def test_check_names_every_problem(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        MODEL + 'model = ph.Model(lambda: pyro.sample("y", dist.Normal(torch.zeros(2), 1.0), obs=torch.zeros(3) / 0))\n'
    )
    code, out, err = run("check", "bad.py")
    assert (code, err) == (1, "")
    found = "error: site 'y': found 3 NaN of 3 values; expected finite numbers; write: model.observe("
    assert found in " ".join(out.split())
    assert "error: site 'y': found an observed value of shape (3,); expected shape (2,)" in out
    assert "warning: site 'y': found batch shape (3,) with 1 dimension(s) outside any plate" in out
    assert "no problems" not in out


def test_check_with_doubts_only_is_fine(run: Run, tmp_path: Path) -> None:
    (tmp_path / "doubtful.py").write_text(
        MODEL + 'model = ph.Model(lambda: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0)))\n'
    )
    code, out, _ = run("check", "doubtful.py")
    assert code == 0
    assert "warning: site 'z': found batch shape (2,)" in out


def test_check_with_data(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"y": [1, 2]}))
    refused(run("check", "m.py", "--data", "d.json"), 1, "site 'y': found an observed value of shape (2,); expected")


def test_the_reference_models_have_no_problems(run: Run) -> None:
    models = Path(__file__).parents[2] / "models"
    code, out, _ = run("check", models / "ising.py")
    assert code == 0
    assert "s_8" in out
    assert "IntegerInterval(0, 1)" in out
    assert "coupling  factor" in out


# run -------------------------------------------------------------------------------------------------------------


def test_the_report(run: Run) -> None:
    code, out, err = run("run", "m.py", *ONE)
    head, table, figures, end = out.split("\n\n")
    assert code == 0
    assert head.startswith("Model heights (m.py) given y[3]. Method importance (num_particles=1000,")
    assert "seed 0:" in head
    assert "1000 weighted draws in" in " ".join(head.split())
    assert "s on engine " in " ".join(head.split())
    assert table.split()[:4] == ["mean", "sd", "q5", "q95"]
    evidence = figures.splitlines()[0].split()
    assert evidence[:2] == ["log", "evidence"]
    assert abs(float(evidence[2]) + 5.4) < 0.5
    assert evidence[3] == "±"
    assert "pareto k " in figures
    assert figures.splitlines()[-1].split() == ["num", "particles", "1000"]
    assert end == "nothing was written; --out FOLDER keeps the draws, the summary and pictures\n"
    assert err == ""
    assert max(map(len, out.splitlines())) <= 110


def test_exact_probabilities_are_shown(run: Run) -> None:
    code, out, err = run("run", "m.py:grass", "--method", "exact", "--set", "num_samples=50")
    assert (code, err) == (0, "")
    assert "Model sprinkler (m.py:grass) given grass." in out
    assert "50 independent draws" in " ".join(out.split())
    assert "probability of  0       1\n" in out
    assert "rain            0.3077  0.6923\n" in out  # 0.2 * 0.9 against 0.8 * 0.1
    assert "log evidence   -1.3471 (exact)\n" in out


def test_chains(run: Run) -> None:
    sizes = [f"--set=num_{name}" for name in ("samples=20", "warmup=20", "chains=2")]
    code, out, err = run("run", "m.py", "--method", "nuts", "--seed", "0", *sizes, "--set=engine=loop")
    assert code == 0
    assert "2 chains of 20 draws" in " ".join(out.split())
    assert "r_hat" in out
    assert "log evidence" not in out
    assert "warning: effective sample size of mu is" in err
    assert "(limit 200); raise num_samples" in err


def test_a_seed_repeats_a_run(run: Run) -> None:
    def table(*more: str) -> str:
        return run("run", "m.py", *ONE, *more)[1].split("\n\n")[1]

    assert table() == table()
    assert table() != table("--seed", "1")


def test_long_summaries_are_cut(run: Run, tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text(
        MODEL + 'model = ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0).expand([50]).to_event(1)))\n'
        'coins = ph.Model(lambda: pyro.sample("c", dist.Bernoulli(0.5).expand([50]).to_event(1)))\n'
    )
    _, out, _ = run("run", "long.py", *ONE)
    assert "... and 10 more rows, which --out FOLDER writes to summary.csv" in out


def test_progress_and_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    few = [*ONE, "--set", "num_particles=200"]
    assert "importance" in run("run", "m.py", *few)[2]  # the bar
    _, out, err = run("run", "m.py", *few, "--no-progress")
    assert "Model heights" in out
    assert err.startswith("warning: the weights are worth")
    code, out, err = run("run", "m.py", *few, "--quiet")
    assert (code, out) == (0, "")
    assert err.startswith("warning: the weights are worth")


def test_strict(run: Run) -> None:
    few = [*ONE, "--set", "num_particles=50", "--quiet", "--strict"]
    code, _, err = run("run", "m.py", *few)
    assert code == 3
    assert "warning: the weights are worth" in err
    assert "raise num_particles, or propose closer to" in err
    assert run("run", "m.py:grass", "--method", "exact", "--strict", "--quiet") == (0, "", "")


def test_every_warning_is_shown_once(run: Run, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "doubtful.py").write_text(
        MODEL + 'model = ph.Model(lambda: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0)))\n'
    )
    few = [*ONE, "--set", "num_particles=50", "--quiet"]
    _, _, err = run("run", "doubtful.py", *few)
    assert err.count("warning: site 'z': found batch shape (2,)") == 1
    assert err.count("the weights are worth 50 draws of 50") == 1
    assert max(map(len, err.splitlines())) <= 100
    assert not recwarn.list


def test_other_peoples_warnings_pass(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(
        MODEL + "import warnings\nwarnings.warn('old spelling', FutureWarning, stacklevel=1)"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always", FutureWarning)
        with pytest.warns(FutureWarning, match="old spelling"):
            code, _, _ = run("run", "old.py:grass", "--method", "exact", "--quiet", "--strict")
    assert code == 0


def test_what_is_written(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("run", "m.py", *ONE, "--out", "runs/deep")
    folder = Path("runs/deep")
    assert code == 0
    wrote = [line.removeprefix("wrote ") for line in out.splitlines() if line.startswith("wrote ")]
    assert wrote[:2] == [str(folder / "posterior.nc"), str(folder / "summary.csv")]
    assert {path.name for path in folder.iterdir()} == {Path(path).name for path in wrote}
    assert [path for path in wrote if path.endswith(".png")]
    posterior = ph.load(folder / "posterior.nc")
    assert posterior.draws["mu"].shape == (1, 1000)
    table = pd.read_csv(folder / "summary.csv", index_col="site")
    assert table.loc["mu", "mean"] == pytest.approx(posterior.summary().loc["mu", "mean"])


def test_a_folder_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    refused(run("run", "m.py", *ONE, "--out", "taken"), 1, "--out taken: cannot be made: File exists")


def test_a_disk_that_is_full(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Plots, folder: Path) -> list[Path]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Plots, "all", full)
    code, _, err = run("run", "m.py", *ONE, "--quiet", "--out", "o")
    assert code == 1
    assert err.endswith("phlogiston: error: --out o: cannot be written: No space left on device\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nuts", "--set", "num_samples=few"], "num_samples: found 'few'; expected an integer above zero"),
        (["nuts", "--set", "target_accept_prob=2"], "target_accept_prob: found 2; expected a number between 0 and 1"),
        (["rejection", "--set", "likelihood_bound=None"], "likelihood_bound"),
        (["importance", "--set", "engine=steam"], "engine: found 'steam'"),
        (["exact"], "method 'exact' cannot treat site 'mu': found a continuous latent (Normal)"),
    ],
)
def test_settings_and_models_that_a_method_refuses(run: Run, arguments: list[str], message: str) -> None:
    refused(run("run", "m.py", "--method", *arguments), 1, message)


def test_a_setting_of_a_kind_that_was_not_reckoned_with(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str, settings: dict[str, object]) -> None:
        raise TypeError("'<' not supported")

    monkeypatch.setattr(registry, "make", make)
    expected = "method 'nuts' cannot take the settings num_samples=[1]: '<' not supported"
    refused(run("run", "m.py", "--method", "nuts", "--set", "num_samples=[1]"), 1, expected)


def test_impossible_evidence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text(
        MODEL + "def never():\n    z = pyro.sample('z', dist.Uniform(0.0, 1.0))\n"
        "    pyro.factor('no', z.new_full((), -float('inf')))\nmodel = ph.Model(never)\n"
    )
    refused(run("run", "never.py", *ONE), 1, "all 1000 particles have likelihood zero")


# Data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "csv", "npz"])
def test_data_replace_inputs_and_observations_of_another_size(run: Run, tmp_path: Path, kind: str) -> None:
    scale, y = [1, 1, 2, 2, 1], [5.0, 6.0, 5.5, 4.0, 6.5]
    file = tmp_path / f"d.{kind}"
    if kind == "json":
        file.write_text(json.dumps({"scale": scale, "y": y}))
    elif kind == "csv":
        file.write_text("scale, y\n" + "\n".join(f"{a},{b}" for a, b in zip(scale, y, strict=True)) + "\n\n")
    else:
        np.savez(file, scale=np.array(scale), y=np.array(y))
    code, out, _ = run("run", "m.py", *ONE, "--data", file, "--out", "o")
    assert code == 0
    assert "given y[5]" in out
    with xr.open_dataset("o/posterior.nc", group="observed_data", engine="h5netcdf") as stored:
        assert stored["y"].values.tolist() == y
        assert stored["person"].size == 5
        assert "ann" not in stored["person"].values
    with xr.open_dataset("o/posterior.nc", group="constant_data", engine="h5netcdf") as stored:
        assert stored["scale"].dtype == np.float64
        assert stored["scale"].values.tolist() == scale
    assert 3.5 < float(pd.read_csv("o/summary.csv", index_col="site").loc["mu", "mean"]) < 6.0


def test_data_of_the_same_size_keep_the_labels(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"y": [0, 0, 1]}))
    assert run("run", "m.py", *ONE, "--data", "d.json", "--out", "o")[0] == 0
    with xr.open_dataset("o/posterior.nc", group="observed_data", engine="h5netcdf") as stored:
        assert stored["person"].values.tolist() == ["ann", "bob", "cy"]
        assert stored["y"].values.tolist() == [0.0, 0.0, 1.0]


def test_an_input_that_the_program_conditions_on(run: Run, tmp_path: Path) -> None:
    exact = ["--method", "exact", "--data", "d.json", "--set", "num_samples=10"]
    for content in ({"wet": 0}, {"grass": 0.0}, {"grass": False}):  # by the input's name or by the site's
        (tmp_path / "d.json").write_text(json.dumps(content))
        code, out, _ = run("run", "m.py:grass", *exact)
        assert code == 0
        assert "rain            0.9730  0.0270" in out  # 0.8 * 0.9 against 0.2 * 0.1


def test_a_default_can_be_replaced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"shift": -30}')
    _, out, _ = run("run", "m.py", "--method", "nuts", "--set=engine=loop", "--data", "d.json", "--set=num_chains=1",
                    "--set=num_samples=20", "--set=num_warmup=20")  # fmt: skip
    assert float(out.split("\nmu ")[1].split()[0]) > 20.0


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"scle": [1.0]}, ["d.json: found 'scle'; expected an input or an observed site; did you mean 'scale'?"]),
        ({"scle": [1.0]}, ["(known: scale, shift, y)"]),
        ({"mu": 1.0}, ["found 'mu', a latent; to condition on it, observe it in the model file"]),
        (
            {"y": [1.0, 2.0]},
            ["site 'y': found an observed value of shape (2,); expected shape (3,), as plate 'person'"],
        ),
        ({"y": [1.0, 2.0, float("nan")]}, ["site 'y': found 1 NaN of 3 values; expected finite numbers"]),
        ({"scale": 2}, ["program 'heights' raised TypeError at ", "m.py:11: with pyro.plate("]),
    ],
)
def test_data_that_do_not_fit(run: Run, tmp_path: Path, content: dict[str, object], parts: list[str]) -> None:
    (tmp_path / "d.json").write_text(json.dumps(content))
    refused(run("run", "m.py", *ONE, "--data", "d.json"), 1, *parts)


@pytest.mark.parametrize(
    ("present", "content", "kind", "dtype"),
    [
        (torch.zeros(2), [1, 2], torch.Tensor, torch.float64),
        (torch.zeros(2), [True, False], torch.Tensor, torch.float64),
        (torch.zeros(2, dtype=torch.long), [1.0, 2.0], torch.Tensor, torch.int64),
        (torch.zeros(2, dtype=torch.long), [1.5, 2.0], torch.Tensor, torch.float64),
        (0.5, 1, float, None),
        (0.5, [1, 2], torch.Tensor, torch.float64),
        (5, 6, int, None),
        (5, 6.0, int, None),
        (5, 6.5, float, None),
        (True, False, bool, None),
        (None, 1.0, torch.Tensor, torch.float64),
        ([1.0], [2, 3], list, None),
        ((1.0,), [2, 3], tuple, None),
    ],
)
def test_an_input_keeps_its_kind(tmp_path: Path, present: object, content: object, kind: type, dtype: object) -> None:
    model = ph.Model(lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)), present)
    file = tmp_path / "d.json"
    file.write_text(json.dumps({"x": content}))
    found = datafile.given(model, datafile.read(file), file).inputs["x"]
    assert type(found) is kind
    assert getattr(found, "dtype", None) == dtype
    assert torch.equal(torch.as_tensor(found).double(), torch.as_tensor(content).double())


def test_a_plate_of_fixed_size_refuses_data_of_another(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("scale,y\n1,1\n2,2\n")
    result = run("run", "m.py:fixed", *ONE, "--data", "d.csv")
    refused(result, 1, "program 'two' raised ValueError at ", "m.py:23: pyro.sample(")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.txt", "y\n1\n", "d.txt: found extension '.txt'; expected one of .json, .csv, .npz"),
        ("d", "y\n1\n", "d: found no extension; expected one of .json, .csv, .npz"),
        ("d.json", "{'y': 1}", "d.json:1:2: found malformed JSON: Expecting property name"),
        ("d.json", "[1, 2]", 'd.json: found a list; expected an object, {"name": [1.0, 2.0], ...}'),
        ("d.json", "{}", "d.json: found nothing in it; expected at least one named value"),
        ("d.json", '{"y": [[1, 2], [3]]}', "d.json: 'y': found uneven lists; expected rows of one length"),
        ("d.json", '{"y": [1, "tall"]}', "d.json: 'y': found 'tall'; expected a number, or a list of numbers"),
        ("d.json", '{"y": [1, null]}', "d.json: 'y': found null; expected a number, or NaN where one is missing"),
        ("d.json", '{"y": {"a": 1}}', "d.json: 'y': found {'a': 1}; expected a number, or a list of numbers"),
        ("d.json", b"\xff\xfe\x00", "d.json: found bytes that are not text; expected UTF-8 text"),
        ("d.csv", "", "d.csv: found nothing in it"),
        ("d.csv", "y\n", "d.csv: found a header and no rows; expected a row for every observation"),
        ("d.csv", "1,2\n3,4\n", "d.csv:1: found '1', '2'; expected a header: the name of every column"),
        ("d.csv", "y,y\n3,4\n", "d.csv:1: found two columns 'y'; expected each name once"),
        ("d.csv", "y,scale\n1,1\n\n2\n", "d.csv:4: found 1 cells; expected 2"),
        ("d.csv", "y\n1\ntall\n", "d.csv:3: column 'y': found 'tall'; expected a number"),
        ("d.csv", "y,scale\n1,\n", "d.csv:2: column 'scale': found an empty cell; expected a number, or nan where"),
        ("d.csv", "y;scale\n1;2\n", "d.csv:1: found columns separated by ';'; expected by commas"),
        ("d.csv", 'y\n"' + "1" * 200_000, "d.csv:2: found malformed CSV: field larger than field limit"),
        (
            "d.npz",
            "no zip",
            'd.npz: found no archive of plain arrays; expected one; write: np.savez("d.npz", name=array)',
        ),
        ("d.npz", b"PK\x03\x04", "d.npz: found no archive of plain arrays"),
    ],
)
def test_malformed_data(run: Run, tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    refused(run("run", "m.py", *ONE, "--data", name), 1, message)


def test_malformed_archives(run: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "object.npz", y=np.array([1, None], dtype=object))
    refused(run("run", "m.py", *ONE, "--data", "object.npz"), 1, "object.npz: found no archive of plain arrays")
    np.savez(tmp_path / "text.npz", y=np.array(["a", "b"]))
    refused(run("run", "m.py", *ONE, "--data", "text.npz"), 1, "text.npz: 'y': found", "expected a number")
    np.savez(tmp_path / "word.npz", y="tall")
    refused(run("run", "m.py", *ONE, "--data", "word.npz"), 1, "word.npz: 'y': found 'tall'; expected a number")
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    refused(run("run", "m.py", *ONE, "--data", "bare.npz"), 1, "bare.npz: found no archive of plain arrays")


def test_data_that_are_not_there(run: Run, tmp_path: Path) -> None:
    refused(run("run", "m.py", *ONE, "--data", "no.csv"), 1, "no.csv: found no such file; expected data")
    (tmp_path / "folder.csv").mkdir()
    refused(run("run", "m.py", *ONE, "--data", "folder.csv"), 1, "folder.csv: cannot be read: Is a directory")


# Model files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "content", "code", "message"),
    [
        ("no.py", None, 1, "no.py: found no such file; expected a Python file that defines `model`"),
        ("no.py:other", None, 1, "no.py: found no such file; expected a Python file that defines `other`"),
        ("x.txt", "", 1, "x.txt: found no Python file; expected file.py or file.py:name"),
        ("x.py", "z = 3", 1, "x.py: found no 'model'; expected a ph.Model; write: model = ph.Model(program, inputs"),
        ("x.py", "model = 3", 1, "x.py: found a int called 'model'; expected a ph.Model; write: model = ph.Model("),
        ("x.py", MODEL + "del model", 1, "found no 'model'; expected a ph.Model; write: x.py:grass or x.py:fixed"),
        ("x.py:number", MODEL, 1, "found a int called 'number'; expected a ph.Model; write: x.py:model or"),
        ("x.py:gras", MODEL, 2, "x.py: found no model 'gras'; did you mean 'grass'? (known: fixed, grass, model)"),
        ("x.py", "a = 1\n\nb = a / 0\n", 1, "x.py:3: the file raised ZeroDivisionError: division by zero"),
        ("x.py", "def f(:\n", 1, "x.py:1: the file raised SyntaxError: invalid syntax"),
        ("x.py", "import sys\nsys.exit(3)", 1, "x.py:2: the file raised SystemExit: 3"),
        ("x.py", "import missing_", 1, "x.py:1: the file raised ModuleNotFoundError: No module named 'missing_'"),
        ("x.py", "raise ValueError('a\\nb')", 1, "x.py:1: the file raised ValueError: a b"),
        (
            "x.py",
            MODEL + "model.observe(yy=3)",
            1,
            "x.py:32: observe: program 'heights' has no site 'yy'; did you mean 'y'? (known: mu, y)",
        ),
        ("x.py", MODEL + "ph.Model(heights)", 1, "x.py:32: the file raised TypeError: Model: the inputs do not fit"),
    ],
)
@pytest.mark.parametrize("command", [["check"], ["run", *ONE]])
def test_wrong_model_files(
    run: Run, tmp_path: Path, command: list[str], given: str, content: str | None, code: int, message: str
) -> None:
    if content is not None:
        (tmp_path / given.split(":")[0]).write_text(content)
    refused(run(*command, given), code, message)


def test_a_model_file_imports_its_neighbours(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "neighbour_of_x.py").write_text(MODEL)
    (folder / "x.py").write_text("from neighbour_of_x import model")
    before = list(sys.path)
    assert run("check", folder / "x.py")[0] == 0
    assert sys.path == before
    (folder / "bad_neighbour_of_x.py").write_text("\n1 / 0")
    (folder / "x.py").write_text("import bad_neighbour_of_x as other")
    refused(run("check", "elsewhere/x.py"), 1, "elsewhere/bad_neighbour_of_x.py:2: the file raised ZeroDivisionError")
    assert sys.path == before


def test_a_model_file_may_have_the_name_of_a_module(run: Run, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(MODEL)
    assert run("check", "torch.py")[0] == 0
    assert sys.modules["torch"] is torch


def test_a_program_that_breaks_while_it_is_in_use(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(
        MODEL + "def late():\n    z = pyro.sample('z', dist.Normal(0.0, 1.0))\n    late.runs += 1\n"
        "    if late.runs > 3:\n        raise RuntimeError('tired')\n    return z\n"
        "late.runs = 0\nmodel = ph.Model(late)\n"
    )
    refused(run("run", "x.py", *ONE, "--set", "engine=loop"), 1, "tired", "x.py:36")


# Faults and interruptions ----------------------------------------------------------------------------------------


def test_traceback(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("1 / 0")
    for arguments in (["--traceback", "check", "x.py"], ["check", "x.py", "--traceback"]):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert "Traceback" in err
        assert "ZeroDivisionError: division by zero\n" in err
        assert err.endswith("phlogiston: error: x.py:1: the file raised ZeroDivisionError: division by zero\n")


def test_a_fault_of_the_library_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **settings: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(sys.modules["phlogiston.inference.infer"], "infer", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        run("run", "m.py", *ONE)


def test_control_c(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["phlogiston.inference.infer"], "infer", stopped)
    assert run("run", "m.py", *ONE) == (130, "", "phlogiston: interrupted\n")


def test_control_c_keeps_what_was_drawn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    infer = ph.infer

    def partial(*arguments: object, **settings: object) -> ph.Posterior:
        from dataclasses import replace

        return replace(infer(*arguments, **settings), interrupted=True)

    monkeypatch.setattr(sys.modules["phlogiston.inference.infer"], "infer", partial)
    code, out, _ = run("run", "m.py", *ONE, "--out", "o", "--strict")
    assert code == 130
    assert "stopped by hand." in " ".join(out.split())
    assert Path("o/posterior.nc").exists()


def test_a_reader_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under ``phlogiston methods | head -1``."""
    command = [sys.executable, "-m", "phlogiston", "methods"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
