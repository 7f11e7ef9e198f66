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

from phlogiston import arviz_edge
from phlogiston.algorithms.needs import Method
from phlogiston.algorithms.nuts import NUTS
from phlogiston.calibration.simulations import Simulations, Values
from phlogiston.diagnostics import systematic_resample
from phlogiston.diagnostics.ranks import fractional_ranks
from phlogiston.engine.isolate import as_int, generator, spawn
from phlogiston.engine.replicated import Replicated
from phlogiston.errors import PhlogistonWarning
from phlogiston.fitted import Fitted
from phlogiston.kernels.nuts import NutsBlock
from phlogiston.kernels.replicates import sample_replicates
from phlogiston.model import Model
from phlogiston.posterior import Posterior

Array = NDArray[np.float64]
MOST_DRAWS, FEWEST_DRAWS = 255, 20
CHAINS_AT_ONCE = 256
OFTEN = 0.01  # of draws that diverge: in hundreds of runs, one or two do in most
LOG_LIKELIHOOD = "log likelihood"
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Job:
    """What every worker needs: the model, the method, the sites to rank, and whether the likelihood is one."""

    model: Model
    method: Method | Fitted
    sites: tuple[str, ...]
    data_sites: tuple[str, ...]
    with_likelihood: bool

    @property
    def batched(self) -> bool:
        """Whether simulations can be run at once: under NUTS from starting points that need no data."""
        method = self.method
        return (
            isinstance(method, NUTS)
            and method.mass_matrix == "diag"
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
    """Of some simulations: ``ranks [n, K]``, draws ranked among and whether diagnostics found fault, ``[n]``."""

    ranks: Array
    sizes: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    engine: str


class Workshop:
    """A job with what is traced once for all of its simulations."""

    def __init__(self, job: Job) -> None:
        self.job = job
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
            mass_matrix=method.mass_matrix,
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
            index, fine = _effective(values)
            picked.append(found.u[i].flatten(0, 1)[index])
            sizes.append(len(index))
            flagged.append(not fine or bool(found.diverging[i] > OFTEN))
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
            index = _independent(posterior, generator(spawn(seed, 1)[0]))
            picked.append({name: value[index] for name, value in posterior.samples().items()})
            flagged.append(bool(posterior.diagnose(thorough=False)))
            engine = posterior.engine
        names = [site.name for site in self.job.model.structure.of("latent", "deterministic")]
        drawn = {name: torch.cat([values[name] for values in picked]) for name in names if name in picked[0]}
        sizes = [next(iter(values.values())).shape[0] for values in picked]
        return drawn, np.array(sizes), np.array(flagged), engine

    def _posterior(self, data: Values, seed: int) -> Posterior:
        method = self.job.method
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhlogistonWarning)  # counted in ``flagged``
            if isinstance(method, Fitted):
                return method.posterior(num_samples=MOST_DRAWS, seed=seed, **data)
            return method(self.job.model.observe(missing="refuse", **data), seed=seed, progress=False)

    def _quantities(self, part: Simulations, drawn: Values, owner: NDArray[np.int64]) -> tuple[Array, Array]:
        """Truths ``[n, K]`` and draws ``[R, K]`` of every quantity."""
        truths = [part.truths[name].reshape(part.truths[name].shape[0], -1).double() for name in self.job.sites]
        draws = [drawn[name].reshape(len(owner), -1).double() for name in self.job.sites]
        if self.job.with_likelihood:
            rows = torch.from_numpy(owner)
            own = {name: value[rows] for name, value in part.data.items()}
            truths.append(self._replicated.log_likelihood(part.truths, part.data)[:, None])
            draws.append(self._replicated.log_likelihood(drawn, own)[:, None])
        return torch.cat(truths, 1).numpy(), torch.cat(draws, 1).numpy()


def _effective(values: Array) -> tuple[torch.Tensor, bool]:
    """Rows of ``[chain, draw, K]``, flattened, that are nearly independent; whether there are enough of them."""
    total = values.shape[0] * values.shape[1]
    sizes = arviz_edge.ess(values, "bulk") if values.shape[1] >= 4 else np.full(values.shape[2:], float(total))
    found = sizes[np.isfinite(sizes)]
    size = float(found.min()) if found.size else 0.0
    keep = int(min(max(size, FEWEST_DRAWS), MOST_DRAWS, total))
    return torch.from_numpy(np.linspace(0, total - 1, keep).round().astype(np.int64)), size >= FEWEST_DRAWS


def _independent(posterior: Posterior, rng: np.random.Generator) -> torch.Tensor:
    """Rows of the flattened draws that count the same and are nearly independent."""
    total = posterior.num_chains * posterior.num_draws
    if posterior.is_chain:
        shape = (posterior.num_chains, posterior.num_draws, -1)
        moving = [value.double().reshape(shape).numpy() for value in posterior.draws.values()]
        values = np.concatenate(moving, axis=2)
        return _effective(values[..., values.reshape(total, -1).std(0) > 0.0])[0]
    if posterior.weights is not None and posterior.log_weights is not None:
        size = float(1.0 / posterior.weights.square().sum())
        keep = int(min(max(size, FEWEST_DRAWS), MOST_DRAWS))
        return torch.from_numpy(systematic_resample(posterior.log_weights.reshape(-1).numpy(), keep, rng))
    keep = int(min(max(posterior.figures.get("ess", total), FEWEST_DRAWS), MOST_DRAWS, total))
    return torch.from_numpy(np.linspace(0, total - 1, keep).round().astype(np.int64))


@functools.lru_cache(maxsize=2)
def _workshop(job: bytes) -> Workshop:
    return Workshop(cloudpickle.loads(job))


def elsewhere(job: bytes, rest: bytes) -> bytes:
    """The same in another process: programs travel by value, and a worker traces a job once."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    with _ONE_AT_A_TIME:
        part, seed = cloudpickle.loads(rest)
        return bytes(cloudpickle.dumps(_workshop(job).run(part, seed)))


def names_of(job: Job, simulations: Simulations) -> tuple[str, ...]:
    """A name for every quantity, in the order of ``Ranked.ranks``."""
    names: list[str] = []
    for site in job.sites:
        shape = tuple(simulations.truths[site].shape[1:])
        labels: list[Sequence[Any]] = simulations.model.labels(site, shape)
        for position in np.ndindex(*shape):
            inner = ", ".join(str(label[i]) for label, i in zip(labels, position, strict=True))
            names.append(f"{site}[{inner}]" if inner else site)
    return (*names, LOG_LIKELIHOOD) if job.with_likelihood else tuple(names)
