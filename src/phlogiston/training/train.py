"""``train``: learn a program's own parameters, by any trainer."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from phlogiston.engine.program.isolate import seed_sequence
from phlogiston.errors import AmortisationWarning, DataFileError, SettingError, problem, warn
from phlogiston.model.model import Model
from phlogiston.model.registry import Registry
from phlogiston.posterior import checkpoint
from phlogiston.training.amortised.fit import guide_from
from phlogiston.training.fitted import Fitted, fingerprint

TRAINERS = Registry(
    "trainer",
    {
        "svi": "phlogiston.inference.methods.svi:SVI",
        "adversarial": "phlogiston.training.adversarial.trainer:Adversarial",
    },
)


class Trainer(Protocol):
    """Settings that fit a program's parameters."""

    def fit(
        self,
        model: Model,
        *,
        seed: int,
        progress: bool = True,
        resume_from: Fitted | None = None,
        checkpoint: Path | None = None,
    ) -> Fitted:
        """The program with learned parameters."""


def train(
    model: Model | Callable[..., Any],
    trainer: str | Trainer,
    *,
    seed: int | None = None,
    progress: bool = True,
    resume_from: Fitted | str | Path | None = None,
    checkpoint: str | Path | None = None,
    **settings: Any,
) -> Fitted:
    r"""Learn a program's own parameters :math:`\theta` (its ``pyro.param`` and ``pyro.module`` statements) from data.

    Args:
        model: a ``Model`` with its observations, or a program without inputs.
        trainer: a trainer's name with its settings as keywords, or a trainer such as ``ph.SVI(num_steps=2000)``.
        seed: of every random number of the run; None draws one, which the result records.
        progress: whether a bar is shown (never where standard error is not a terminal).
        resume_from: an earlier result, or the file of one; training goes on from its last step bit for bit.
        checkpoint: a file that is rewritten as training goes on.
        **settings: of a trainer given by name.

    Returns:
        the program with its learned parameters, and how they were learned.

    Raises:
        UnknownName: no such trainer or setting (the nearest name is in the message).
        ModelError: the model, its inputs or its observations are wrong.
        DataFileError: ``resume_from`` is no training, or one of another model.
    """
    model = model if isinstance(model, Model) else Model(model)
    chosen = _trainer(trainer, settings)
    seed = secrets.randbits(32) if seed is None else int(seed_sequence(seed).entropy)  # type: ignore[arg-type]
    before: Any = resume_from
    if isinstance(before, (str, Path)):
        before = restore(before, model, resumes=True)
    if before is not None and not isinstance(before, Fitted):
        expected = "what ph.train returned, or the path of its file"
        raise SettingError(problem("resume_from", found=repr(before), expected=expected))
    if before is not None and not model.implicit and fingerprint(before.model) != fingerprint(model):
        raise _other_data()
    file = None if checkpoint is None else Path(checkpoint)
    fitted = chosen.fit(model, seed=seed, progress=progress, resume_from=before, checkpoint=file)
    names: list[str] = [field.name for field in dataclasses.fields(chosen)] if dataclasses.is_dataclass(chosen) else []
    settings = {name: getattr(chosen, name) for name in names}
    return dataclasses.replace(fitted, settings={**settings, **fitted.settings})  # what the trainer chose itself counts


def _other_data() -> DataFileError:
    return DataFileError(
        problem(
            "resume_from",
            found="a training on other data",
            expected="the data that it was trained on: a run that goes on is the run that was not interrupted",
            fix="ph.train(model.with_parameters(fitted.params), trainer), which starts from what was learned",
        )
    )


def restore(path: str | Path, model: Model, *, resumes: bool = False) -> Fitted:
    """A training that ``fitted.save`` or a checkpoint wrote, for the model that was trained.

    Raises:
        DataFileError: there is no such file, it is something else, or it belongs to another model.
    """
    content = checkpoint.read(Path(path))
    if "params" not in content:
        raise DataFileError(problem(str(path), found="a checkpoint of ph.calibrate", expected="a training"))
    params, data = content.pop("params"), content.pop("data", None)
    if resumes and data not in (None, fingerprint(model)) and not model.implicit:
        raise _other_data()
    known = {site.name: site.shape for site in model.structure.of("parameter")}
    found = {name: tuple(value.shape) for name, value in params.items()}
    if differ := sorted(set(found.items()) ^ set(known.items())):
        name = differ[0][0]
        raise DataFileError(
            f"{path}: found a training of another model: parameter {name!r} has shape {found.get(name, 'none')} there; "
            f"expected {known.get(name, 'none')}"
        )
    trained = model.with_parameters(params)
    lost = [name for name in content["state"] if name.startswith("param/guide/")]
    if lost and "amortized" not in content["state"] and not resumes:
        warn(
            problem(
                f"load: {path}",
                found="a guide with an encoder of your own, whose weights are in the file and whose code is not",
                expected="a trained encoder: without it there is no .posterior, .elbo or .usage",
                fix="encoder.load_state_dict({n.removeprefix('param/guide/'): v for n, v in fitted.state.items() "
                "if n.startswith('param/guide/')})",
            ),
            AmortisationWarning,
        )
    return Fitted(model=trained, guide=guide_from(content["state"], trained), **content)


def _trainer(trainer: str | Trainer, settings: dict[str, Any]) -> Trainer:
    if isinstance(trainer, str):
        made: Trainer = TRAINERS.make(trainer, settings, train)
        return made
    if settings:
        raise TypeError(
            f"train: found settings {sorted(settings)} beside a trainer; expected them inside it; "
            f"write: {type(trainer).__name__}(...)"
        )
    if not hasattr(trainer, "fit") or isinstance(trainer, type):
        names = ", ".join(TRAINERS)
        raise TypeError(f"train: found {trainer!r} as the trainer; expected a trainer or a name ({names})")
    return trainer
