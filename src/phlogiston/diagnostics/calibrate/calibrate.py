"""``calibrate``: simulation-based calibration of any method on any model."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from tqdm.auto import tqdm

from phlogiston.diagnostics.calibrate.amortised import calibrated_guide
from phlogiston.diagnostics.calibrate.result import Calibration
from phlogiston.diagnostics.calibrate.simulations import Simulations, simulate
from phlogiston.diagnostics.calibrate.worker import Job, Ranked, Worker, elsewhere, names_of
from phlogiston.engine.program.isolate import seed_sequence, spawn
from phlogiston.errors import SettingError, UnknownName, did_you_mean, positive_int, problem
from phlogiston.inference import registry
from phlogiston.inference.infer import method_of
from phlogiston.inference.method import Method, require
from phlogiston.model.model import Model
from phlogiston.posterior import checkpoint as files
from phlogiston.posterior.posterior import Posterior
from phlogiston.training.fitted import Fitted


def calibrate(
    model: Model | Callable[..., Any],
    method: str | Method | Fitted,
    *,
    num_simulations: int = 200,
    sites: str | Sequence[str] | None = None,
    around: Posterior | None = None,
    corrected: bool | None = None,
    seed: int | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    checkpoint: str | Path | None = None,
    **settings: Any,
) -> Calibration:
    r"""Simulation-based calibration: does a method recover the latents that data were simulated from?

    Draws :math:`\tilde z \sim p(z)`, :math:`\tilde x \sim p(x \mid \tilde z)`, and ranks :math:`\tilde z`, component by
    component, among nearly independent draws of :math:`p(z \mid \tilde x)`: uniform if, over all data, these are right.
    The log likelihood is ranked too: it sees a method that ignores the data. NUTS runs many simulations at once.

    Args:
        model: a model; what it observes says which sites are data (the values do not matter), or a program.
        method: a method's name with its settings, a method, or a ``Fitted``, whose guide needs one pass for all; each
            datum is then a simulation.
        sites: a latent or deterministic to rank, or several; all by default.
        around: a posterior given observed data: truths are drawn from it, and recovered from both data together.
        corrected: whether importance weights count. None: as the posterior counts them, and not those of a ``Fitted``.
        seed: of everything; None draws one, which the result records.
        executor: any ``concurrent.futures.Executor``, with the same ranks.
        checkpoint: a file that keeps what is done; a run that finds it goes on from there.
        **settings: of a method given by name.

    Raises:
        UnsupportedModel: a site cannot be simulated. SettingError: ``around`` is of another model, or too few draws.

    References:
        Talts et al. (2018), https://arxiv.org/abs/1804.06788; Sailynoja et al. (2025), https://arxiv.org/abs/2502.03279

    Example:
        >>> coin = lambda: pyro.sample("heads", dist.Binomial(10, pyro.sample("p", dist.Beta(2.0, 2.0))))
        >>> model = ph.Model(coin).observe(heads=3.0)
        >>> ph.calibrate(model, "nuts", num_samples=200, num_simulations=100, seed=0, progress=False).calibrated
        True
    """
    began = time.perf_counter()
    model = model if isinstance(model, Model) else Model(model)
    chosen, name = _chosen(model, method, settings)
    named, known = _named(model, num_simulations, sites)
    if isinstance(chosen, Fitted):
        seed = _chosen_seed(seed)
        _require_one_pass(around=around, executor=executor, checkpoint=checkpoint)
        found = calibrated_guide(model, chosen, num_simulations, named, bool(corrected), seed_sequence(seed))
    else:
        log = _Log(checkpoint, f"{model.name}|{chosen!r}|{num_simulations}|{named}|{corrected}")
        seed = log.seed_or(_chosen_seed(seed), seed is None)
        drawing, working = spawn(seed, 2)
        simulations = simulate(model, num_simulations, drawing, around)
        job = Job(simulations.model, chosen, named or known, tuple(simulations.data), corrected)
        found = _collected(job, simulations, *_all(job, simulations, working, executor, log, progress))
    return replace(found, method=name, seed=seed, seconds=time.perf_counter() - began)


def _chosen_seed(seed: int | None) -> int:
    return secrets.randbits(32) if seed is None else int(seed_sequence(seed).entropy)  # type: ignore[arg-type]


def _require_one_pass(**given: Any) -> None:
    """Refuse what makes no sense where one pass of an encoder serves all simulations."""
    for name, value in given.items():
        if value is not None:
            expected = "none beside a Fitted, whose guide takes one pass, of single data"
            raise SettingError(problem(name, found=type(value).__name__, expected=expected))


def _collected(job: Job, simulations: Simulations, results: Sequence[Ranked], interrupted: bool) -> Calibration:
    """The ranks of all parts by quantity."""
    ranks = np.concatenate([found.ranks for found in results])
    return Calibration(
        ranks={quantity: ranks[:, i] for i, quantity in enumerate(names_of(job, simulations))},
        sizes=np.concatenate([found.sizes for found in results]),
        flagged=np.concatenate([found.flagged for found in results]),
        method="",
        source=simulations.source,
        engine=results[-1].engine,
        batched=job.batched,
        interrupted=interrupted,
    )


def _named(
    model: Model, num_simulations: int, sites: str | Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sites that were named, and all that can be ranked; refuses too few simulations and sites not among them."""
    positive_int(num_simulations=num_simulations)
    if num_simulations < 20:
        raise SettingError(problem("num_simulations", found=str(num_simulations), expected="20 or more"))
    known = tuple(site.name for site in model.structure.of("latent", "deterministic"))
    named = () if sites is None else (sites,) if isinstance(sites, str) else tuple(sites)
    for site in named:
        if site not in known:
            raise UnknownName(f"calibrate: found no site {site!r} to rank; {did_you_mean(site, known)}")
    return named, known


def _chosen(model: Model, method: str | Method | Fitted, settings: dict[str, Any]) -> tuple[Any, str]:
    if isinstance(method, Fitted):
        if settings:
            raise TypeError(f"calibrate: found settings {sorted(settings)} beside a Fitted; expected none")
        return method, method.method
    chosen = method_of(method, settings, calibrate)
    require(chosen, model)
    return chosen, registry.name_of(chosen)


def _digest(simulations: Simulations) -> str:
    """A digest of truths, data and inputs, which tells one set of simulations from another."""
    given = simulations.model.parameters
    observed = simulations.model.structure.observations if simulations.source == "posterior" else {}
    found = hashlib.sha256()
    for part in (simulations.truths, simulations.data, observed, given):
        for name, value in sorted(part.items()):
            found.update(f"{name}{tuple(value.shape)}".encode())
            found.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return found.hexdigest()


class _Log:
    """What is done, in a file if there is one."""

    def __init__(self, file: str | Path | None, run: str) -> None:
        path = None if file is None else Path(file)
        self._path, self._run, self._seed, self._data = path, run, 0, ""
        self.done: dict[int, Ranked] = {}
        self._found = files.read(path) if path is not None and path.exists() else None

    def seed_or(self, seed: int, free: bool) -> int:
        """The run's seed: the file's, if it is the same run."""
        self._seed = seed
        if self._found is None:
            return seed
        other, its_seed = str(self._found.get("run")), self._found.get("seed")
        if other != self._run or (not free and its_seed != seed):
            raise _another(f"a file of another run (seed {its_seed}): {other[:150]}")
        self._seed = int(self._found["seed"])
        self.done = {int(start): Ranked(**kept) for start, kept in self._found["done"].items()}
        return self._seed

    def compare(self, data: str) -> None:
        """Refuse a file whose simulations are others: of another program, other inputs, or around another posterior."""
        self._data = data
        if self._found is not None and self._found.get("data") != data:
            raise _another("a file of other simulations")

    def add(self, start: int, found: Ranked) -> None:
        """Keep one part."""
        self.done[start] = found
        if self._path is not None:
            done = {str(i): vars(part) for i, part in self.done.items()}
            files.write({"run": self._run, "seed": self._seed, "data": self._data, "done": done}, self._path)


def _another(found: str) -> SettingError:
    expected = "the same model, method, settings, data and seed"
    return SettingError(problem("checkpoint", found=found, expected=expected, fix="checkpoint= another file"))


def _all(
    job: Job,
    simulations: Simulations,
    seed: np.random.SeedSequence,
    executor: Executor | None,
    log: _Log,
    progress: bool,
) -> tuple[list[Ranked], bool]:
    """Every part in order, and whether it was stopped by hand."""
    log.compare(_digest(simulations))
    count = next(iter(simulations.data.values())).shape[0]
    size = job.simulations_at_once if job.batched else 1
    starts = list(range(0, count, size))
    parts = {
        start: (simulations.part(start, start + size), s)
        for start, s in zip(starts, spawn(seed, len(starts)), strict=True)
        if start not in log.done
    }
    interrupted = False
    with tqdm(total=count, desc="calibrate", unit="simulation", disable=None if progress else True) as bar:
        bar.update(sum(found.sizes.size for found in log.done.values()))
        try:
            for start, found in _worked(job, parts, executor):
                log.add(start, found)
                bar.update(found.sizes.size)
        except KeyboardInterrupt:
            if not log.done:
                raise
            interrupted = True
    return [log.done[start] for start in starts if start in log.done], interrupted


def _worked(
    job: Job, parts: dict[int, tuple[Simulations, np.random.SeedSequence]], executor: Executor | None
) -> Iterator[tuple[int, Ranked]]:
    if not parts:
        return
    if executor is None:
        worker = Worker(job)
        for start, (part, seed) in parts.items():
            yield start, worker.run(part, seed)
        return
    common = cloudpickle.dumps(job)
    futures = {executor.submit(elsewhere, common, cloudpickle.dumps(part)): start for start, part in parts.items()}
    try:
        for future in as_completed(futures):
            yield futures[future], cloudpickle.loads(future.result())
    finally:
        for future in futures:
            future.cancel()
