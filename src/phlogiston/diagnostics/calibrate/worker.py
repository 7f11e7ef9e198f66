"""The work on some of the simulations: posteriors, thinned draws, and the ranks of the truths among them."""

from __future__ import annotations

import functools
import multiprocessing
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.diagnostics.calibrate.simulations import Simulations, Values
from phlogiston.engine.densities.per_dataset import Replicated
from phlogiston.engine.program.isolate import as_int, generator, spawn
from phlogiston.errors import PhlogistonWarning
from phlogiston.inference.mcmc.batched_nuts import sample_replicates
from phlogiston.inference.mcmc.nuts import NutsBlock
from phlogiston.inference.method import Method, run_method
from phlogiston.inference.methods.nuts import NUTS
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.thinning import effective_size_of, rows_of
from phlogiston.stats.effective_size import effective_size, evenly_spaced
from phlogiston.stats.ranks import fractional_ranks

Array = NDArray[np.float64]
MOST_DRAWS, FEWEST_DRAWS = 255, 20
CHAINS_AT_ONCE = 256
OFTEN = 0.01  # of draws that diverge: in hundreds of runs, one or two do in most
LOG_LIKELIHOOD = "log likelihood"
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What every worker needs: the model, the method, the sites to rank, those of data, and what weights are for."""

    model: Model
    method: Method
    sites: tuple[str, ...]
    data_sites: tuple[str, ...]
    corrected: bool | None = None

    @property
    def batched(self) -> bool:
        """Whether simulations can be run at once: under NUTS from starting points that need no data."""
        method = self.method
        return (
            isinstance(method, NUTS)
            and method.mass_matrix in ("auto", "diag")
            and method.initial in ("uniform", "prior", "median")
            and method.dtype == "float64"
            and method.needs.unmet(self.model.structure) is None
        )

    @property
    def simulations_at_once(self) -> int:
        """Simulations of one block."""
        return max(1, CHAINS_AT_ONCE // self.method.num_chains) if isinstance(self.method, NUTS) else 1


@dataclass(frozen=True)
class Ranked:
    """Results of some simulations: ``ranks [n, K]``, draws ranked among and failed diagnostics, ``[n]``."""

    ranks: Array
    sizes: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    engine: str


class Worker:
    """A job with what is traced once for all of its simulations."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._model = job.model.for_many_data(*job.data_sites)
        self._replicated = Replicated(job.model, job.data_sites, engine=getattr(job.method, "engine", "auto"))

    def run(self, part: Simulations, seed: np.random.SeedSequence) -> Ranked:
        """Posteriors and ranks of some simulations."""
        running, recovering, ranking = spawn(seed, 3)
        count = next(iter(part.data.values())).shape[0]
        if self.job.batched:
            drawn, sizes, flagged, engine = self._at_once(part, count, running, recovering)
        else:
            drawn, sizes, flagged, engine = self._one_by_one(part, count, running)
        owner = np.repeat(np.arange(count), sizes)
        truth, draws = self._quantities(part, drawn, owner)
        rng = generator(ranking)
        ranks = [fractional_ranks(truth[i], draws[owner == i], rng) for i in range(count)]
        return Ranked(np.stack(ranks), sizes, flagged, engine)

    def _at_once(
        self, part: Simulations, count: int, running: np.random.SeedSequence, recovering: np.random.SeedSequence
    ) -> tuple[Values, NDArray[np.int64], NDArray[np.bool_], str]:
        method = self.job.method
        assert isinstance(method, NUTS)
        sampler = NutsBlock(
            num_warmup=method.num_warmup,
            target_accept_prob=method.target_accept_prob,
            max_tree_depth=method.max_tree_depth,
            step_size=method.step_size,
            mass_matrix="diag",
        )
        full = self.job.simulations_at_once  # a short last block is filled up: one size is compiled once
        rows = torch.arange(full) % count
        data = {name: value[rows] for name, value in part.data.items()}
        target, start = self.job.model.target(method.engine), (method.initial, running)
        found = sample_replicates(
            target,
            self._replicated,
            sampler,
            data,
            method.num_chains,
            method.num_samples,
            start,  # type: ignore[arg-type]
        )
        picked, sizes, flagged = [], [], []
        for i in range(count):
            values = found.u[i].numpy()
            size = effective_size(values)
            index = evenly_spaced(values.shape[0] * values.shape[1], _kept(size, values.shape[0] * values.shape[1]))
            picked.append(found.u[i].flatten(0, 1)[index])
            sizes.append(len(index))
            flagged.append(size < FEWEST_DRAWS or bool(found.diverging[i] > OFTEN))
        lengths = torch.tensor(sizes)
        own = {name: value.repeat_interleave(lengths, 0) for name, value in part.data.items()}
        drawn = self._replicated.values(torch.cat(picked), own, recovering)
        return drawn, np.array(sizes), np.array(flagged), found.engine

    def _one_by_one(
        self, part: Simulations, count: int, running: np.random.SeedSequence
    ) -> tuple[Values, NDArray[np.int64], NDArray[np.bool_], str]:
        picked: list[Values] = []
        flagged, engine = [], ""
        for i, seed in enumerate(spawn(running, count)):
            data = {name: value[i] for name, value in part.data.items()}
            posterior = self._posterior(data, as_int(seed))
            weighted = self.job.corrected is not False
            keep = _kept(effective_size_of(posterior, weighted=weighted), posterior.num_chains * posterior.num_draws)
            index = rows_of(posterior, keep, generator(spawn(seed, 1)[0]), weighted=weighted)
            picked.append({name: value[index] for name, value in posterior.samples().items()})
            flagged.append(bool(posterior.diagnose(thorough=False)))
            engine = posterior.engine
        names = [site.name for site in self.job.model.structure.of("latent", "deterministic")]
        drawn = {name: torch.cat([values[name] for values in picked]) for name in names if name in picked[0]}
        sizes = [next(iter(values.values())).shape[0] for values in picked]
        return drawn, np.array(sizes), np.array(flagged), engine

    def _posterior(self, data: Values, seed: int) -> Posterior:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhlogistonWarning)  # counted in ``flagged``
            model = self._model.observe(missing="refuse", **data)
            return run_method(self.job.method, model, seed=seed, progress=False)

    def _quantities(self, part: Simulations, drawn: Values, owner: NDArray[np.int64]) -> tuple[Array, Array]:
        """Truths ``[n, K]`` and draws ``[R, K]`` of every quantity."""
        truths = [part.truths[name].reshape(part.truths[name].shape[0], -1).double() for name in self.job.sites]
        draws = [drawn[name].reshape(len(owner), -1).double() for name in self.job.sites]
        rows = torch.from_numpy(owner)
        own = {name: value[rows] for name, value in part.data.items()}
        truths.append(self._replicated.log_likelihood(part.truths, part.data)[:, None])
        draws.append(self._replicated.log_likelihood(drawn, own)[:, None])
        return torch.cat(truths, 1).numpy(), torch.cat(draws, 1).numpy()


@functools.lru_cache(maxsize=2)
def _worker(job: bytes) -> Worker:
    return Worker(cloudpickle.loads(job))


def elsewhere(job: bytes, rest: bytes) -> bytes:
    """The same in another process: programs travel by value, and a worker traces a job once."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    with _ONE_AT_A_TIME:
        part, seed = cloudpickle.loads(rest)
        return bytes(cloudpickle.dumps(_worker(job).run(part, seed)))


def names_of(job: Job, simulations: Simulations) -> tuple[str, ...]:
    """A name for every quantity, in the order of ``Ranked.ranks``."""
    shapes = {site: tuple(simulations.truths[site].shape[1:]) for site in job.sites}
    labels = {site: simulations.model.labels(site, shape) for site, shape in shapes.items()}
    return (*(name for site in job.sites for name in labelled(site, shapes[site], labels[site])), LOG_LIKELIHOOD)


def labelled(site: str, shape: tuple[int, ...], labels: Sequence[Sequence[Any]]) -> list[str]:
    """A name for every number of a site."""
    names = []
    for position in np.ndindex(*shape):
        inner = ", ".join(str(label[i]) for label, i in zip(labels, position, strict=True))
        names.append(f"{site}[{inner}]" if inner else site)
    return names


def _kept(size: float, total: int) -> int:
    return int(min(max(size, FEWEST_DRAWS), MOST_DRAWS, total))
