"""Calibration of an amortised guide: one pass of the encoder gives the posterior of every simulated datum."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from phlogiston.diagnostics.calibrate.result import Calibration
from phlogiston.diagnostics.calibrate.worker import FEWEST_DRAWS, LOG_LIKELIHOOD, MOST_DRAWS, labelled
from phlogiston.engine.program.isolate import as_int, generator, isolated, spawn
from phlogiston.errors import SettingError, UnknownName, UnsupportedModel, did_you_mean, problem
from phlogiston.model.model import Model
from phlogiston.stats.ranks import fractional_ranks
from phlogiston.stats.weights import effective_sample_size, systematic_resample
from phlogiston.training.amortised.guide import AmortizedGuide
from phlogiston.training.evaluate.pairs import PAIRS, Encoded, chunks_of, with_data
from phlogiston.training.fitted import Fitted

Array = NDArray[np.float64]
Values = dict[str, torch.Tensor]
_WEIGHED = 1024  # draws a datum that are resampled by their weights


def calibrated_guide(
    model: Model, fitted: Fitted, count: int, sites: tuple[str, ...], corrected: bool, seed: np.random.SeedSequence
) -> Calibration:
    """Ranks of simulated latents among a guide's draws: a simulation is a datum, an element of the guide's plate."""
    guide = _guide_of(model, fitted)
    ranked = sites or tuple(local.site.name for local in guide.split.local)
    if (none := [site for site in ranked if site not in {local.site.name for local in guide.split.local}]) != []:
        known = [local.site.name for local in guide.split.local]
        raise UnknownName(f"calibrate: the guide draws no site {none[0]!r}; {did_you_mean(none[0], known)}")
    simulating, drawing, ranking = spawn(seed, 3)
    before = Encoded(fitted.model, guide)
    ranks: list[Array] = []
    sizes: list[int] = []
    rng, left = generator(ranking), count
    for simulated, drawn in zip(
        *(spawn(s, math.ceil(count / before.count)) for s in (simulating, drawing)), strict=True
    ):
        size = min(left, before.count)
        truths = before.terms.generate(size, simulated)
        encoded = Encoded(*_with(fitted.model, guide, truths, before))
        for truth, draws in _pairs(encoded, truths, ranked, drawn, _WEIGHED if corrected else MOST_DRAWS):
            kept = _resampled(draws, rng) if corrected else draws["value"]
            ranks.append(fractional_ranks(truth, kept, rng))
            sizes.append(len(kept))
        left -= size
    names = _names(fitted.model, guide, ranked, ranks[0].size)
    return Calibration(
        ranks={name: np.array([row[i] for row in ranks]) for i, name in enumerate(names)},
        sizes=np.array(sizes),
        flagged=np.zeros(count, dtype=bool),
        method="",
        engine="graph",
        batched=True,
    )


def _guide_of(model: Model, fitted: Fitted) -> AmortizedGuide:
    if model.program is not fitted.model.program:
        raise SettingError(
            problem(
                "calibrate",
                found=f"a Fitted of program {fitted.model.name!r} and the model {model.name!r}",
                expected="the model that was trained, with its learned parameters",
                fix="ph.calibrate(fitted.model, fitted)",
            )
        )
    if not isinstance(fitted.guide, AmortizedGuide):
        raise UnsupportedModel(
            problem(
                f"calibrate, Fitted({fitted.method})",
                found="no amortised guide",
                expected="one, which knows the latents of any datum",
                fix="ph.calibrate(fitted.model, method)",
            )
        )
    return fitted.guide


def _with(model: Model, guide: AmortizedGuide, simulated: Values, before: Encoded) -> tuple[Model, AmortizedGuide]:
    """Model and guide before simulated data, repeated up to the size of the plate.

    An input that held the training data (``obs=x``) holds the simulated ones.
    """
    rows = torch.arange(before.count) % next(iter(simulated.values())).shape[0]
    fresh, structure = {}, model.structure
    for name in guide.split.observed or tuple(s.name for s in structure.of("observed") if s.name in simulated):
        fresh[name] = simulated[name][rows].movedim(0, before.terms.axis(name))
        trained = torch.as_tensor(structure.observations[name])
        for given, value in model.inputs.items():
            if given in guide.split.inputs and value.shape == trained.shape and torch.equal(value, trained.to(value)):
                fresh[given] = fresh[name]
    return with_data(model, guide, fresh)


def _pairs(
    encoded: Encoded, truths: Values, sites: tuple[str, ...], seed: np.random.SeedSequence, draws: int
) -> list[tuple[Array, dict[str, Array]]]:
    """Return for every datum its true values ``[K]``, draws ``[L, K]`` and their log weights ``[L]``."""
    count = next(iter(truths.values())).shape[0]
    chunks, found = [rows[rows < count] for rows in chunks_of(count, PAIRS // draws)], []
    for rows, own in zip(chunks, spawn(seed, len(chunks)), strict=True):
        with isolated(as_int(own), torch.float32), torch.no_grad():
            pairs = encoded.at(rows, *encoded.parameters(rows), draws)
            values = [
                pairs[name].movedim(1 + encoded.terms.axis(name), 1).reshape(draws, len(rows), -1) for name in sites
            ]
            values.append(pairs["log_likelihood"].unsqueeze(-1))
            true = [truths[name][rows].reshape(len(rows), -1) for name in sites]
            own_values = {n: truths[n][rows].unsqueeze(1 + encoded.terms.axis(n)) for n in encoded.terms.local}
            true.append(encoded.terms(rows, own_values)["log_likelihood"].unsqueeze(-1))
        drawn, truth = torch.cat(values, -1).double().numpy(), torch.cat(true, -1).double().numpy()
        known = ~np.isnan(truth).any(0)  # no likelihood given all latents where discrete ones are summed out
        weights = (pairs["log_joint"] - pairs["log_q"]).double().numpy()
        found += [
            (truth[i, known], {"value": drawn[:, i][:, known], "weight": weights[:, i]}) for i in range(len(rows))
        ]
    return found


def _resampled(draws: dict[str, Array], rng: np.random.Generator) -> Array:
    """Draws resampled by their importance weights, as many as the effective number of draws."""
    keep = int(min(max(effective_sample_size(draws["weight"]), FEWEST_DRAWS), MOST_DRAWS))
    return np.asarray(draws["value"][systematic_resample(draws["weight"], keep, rng)])


def _names(model: Model, guide: AmortizedGuide, sites: tuple[str, ...], count: int) -> list[str]:
    names = []
    for local in guide.split.local:
        if local.site.name in sites:
            shape = local.site.shape
            labels = model.labels(local.site.name, shape)
            axis = local.axis
            names += labelled(local.site.name, shape[:axis] + shape[axis + 1 :], labels[:axis] + labels[axis + 1 :])
    return names if len(names) == count else [*names, LOG_LIKELIHOOD]
