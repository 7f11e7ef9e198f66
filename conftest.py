"""What every test and every docstring example runs in."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent

# Before torch and matplotlib are imported, by this file or by a test: one thread a worker, as workers are what fills
# the cores; figures without a screen; compiled code that outlives the run, apart from the user's own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("PHLOGISTON_CACHE", str(ROOT / ".cache" / "phlogiston-test"))

import functools  # noqa: E402
import gc  # noqa: E402
import importlib.util  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from types import ModuleType  # noqa: E402
from typing import Any  # noqa: E402

import pyro  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

# A worker comes to hold millions of objects, which are nearly all there to stay: look through them more rarely.
gc.set_threshold(20_000, 20, 50)

LoadModel = Callable[[str], ModuleType]


@pytest.fixture(autouse=True)
def _globals_stay_as_they_are() -> Iterator[None]:
    """Fail any test that leaves torch or Pyro otherwise than it found them, and put them back for the next."""
    store = pyro.get_param_store()
    before, parameters = _globals(), store.get_state()
    yield
    after = _globals()
    if after == before:
        return
    torch.set_default_dtype(before["torch default dtype"])
    pyro.settings.set(**before["Pyro settings"])
    store.clear()  # set_state only adds
    store.set_state(parameters)
    changed = [f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    pytest.fail("the test changed global state: " + "; ".join(changed), pytrace=False)


def _globals() -> dict[str, Any]:
    """Pyro's settings hold all four validation flags, torch's ``Distribution._validate_args`` among them."""
    return {
        "torch default dtype": torch.get_default_dtype(),
        "Pyro settings": dict(pyro.settings.get()),
        "Pyro parameter store": sorted(pyro.get_param_store().keys()),
    }


@pytest.fixture(autouse=True)
def _names_in_examples(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    """Docstring and README examples may use ``ph``, ``torch``, ``pyro`` and ``dist`` without importing them."""
    if isinstance(request.node, pytest.DoctestItem):
        import phlogiston as ph

        doctest_namespace.update(ph=ph, torch=torch, pyro=pyro, dist=pyro.distributions)


@pytest.fixture(scope="session")
def load_model() -> LoadModel:
    """``load_model("eight_schools")`` is the module at models/eight_schools.py, loaded once."""
    return _load_model


@functools.cache
def _load_model(name: str) -> ModuleType:
    path = ROOT / "models" / f"{name}.py"
    # This folder is on the path under pytest, so worker processes find the module by the same name.
    spec = importlib.util.spec_from_file_location(f"models.{name}", path)
    if spec is None or spec.loader is None or not path.exists():
        known = sorted(file.stem for file in path.parent.glob("*.py"))
        raise FileNotFoundError(f"{path} does not exist; models are {known}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


@pytest.fixture(scope="session")
def posteriordb() -> Path:
    """The posterior_database folder of a posteriordb checkout."""
    return _given_by("POSTERIORDB", "the posterior_database folder of a posteriordb checkout")


@pytest.fixture(scope="session")
def mnist() -> Path:
    """``mnist_t10k.npz``: ``images`` uint8 [10000, 28, 28] and ``labels`` uint8 [10000]."""
    folder = _given_by("PHLOGISTON_DATA", "a folder with mnist_t10k.npz")
    if not (folder / "mnist_t10k.npz").exists():
        pytest.skip(f"no mnist_t10k.npz in {folder} (PHLOGISTON_DATA)")
    return folder / "mnist_t10k.npz"


def _given_by(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set; set it to {what}")
    path = Path(value)
    if not path.is_dir():
        pytest.skip(f"{variable}={value} is not a folder; set it to {what}")
    return path
