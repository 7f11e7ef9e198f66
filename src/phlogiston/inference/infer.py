"""``infer``: any method on any model, by name."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phlogiston.engine.program.isolate import gc_paused, seed_sequence
from phlogiston.errors import DataFileError, problem, warn
from phlogiston.inference import registry
from phlogiston.inference.method import Method, run_method
from phlogiston.model.model import Model
from phlogiston.model.registry import settings_of
from phlogiston.posterior import checkpoint, storage
from phlogiston.posterior.compatibility import mismatch, other_observations
from phlogiston.posterior.posterior import Posterior
from phlogiston.training.fitted import Fitted
from phlogiston.training.train import restore


def infer(
    model: Model | Callable[..., Any],
    method: str | Method,
    *,
    seed: int | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    resume_from: Posterior | None = None,
    **settings: Any,
) -> Posterior:
    r"""Posterior of a model's latents, :math:`p(z \mid x)`, by any method.

    Args:
        model: a ``Model``, or a program without inputs.
        method: a name with settings as keywords, "auto" (see ``recommend``), or such as ``ph.NUTS(num_samples=500)``.
        seed: of every random number of the run; None draws one, which the result records.
        progress: whether a bar is shown (never where standard error is not a terminal).
        executor: any ``concurrent.futures.Executor``; runs blocks of chains. The draws do not depend on it.
        resume_from: an earlier posterior of the same model and method, from memory or from disk; its chains go on,
            and the result holds the draws of both runs.
        **settings: of a method given by name.

    Returns:
        the posterior, with its diagnostics in ``.warnings``.

    Raises:
        UnknownName: no such method or setting (the nearest name is in the message).
        UnsupportedModel: the method cannot treat the model (the site, and methods that can, are in the message).
        ModelError: the model, its inputs or its observations are wrong.

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> post = infer(ph.Model(program).observe(y=1.0), "importance", num_particles=20_000, seed=0)
        >>> bool(abs(post.expect("mu").value - 0.8) < 0.05)
        True
    """
    model = model if isinstance(model, Model) else Model(model)
    chosen = method_of(method, settings, infer)
    seed = secrets.randbits(32) if seed is None else int(seed_sequence(seed).entropy)  # type: ignore[arg-type]
    more: dict[str, Any] = {"resume_from": resume_from, "executor": executor}
    more = {name: value for name, value in more.items() if value is not None}
    _require_chains(chosen, more)
    try:
        posterior = run_method(chosen, model, seed=seed, progress=progress, **more)
    except KeyboardInterrupt:  # out of torch's compiler, as a rule, with a hundred frames that nobody asked for
        raise KeyboardInterrupt("infer: stopped before there were draws to keep") from None
    with gc_paused():
        findings = posterior.diagnose(thorough=False)
    if findings:
        lines = [str(finding) for finding in findings]
        warn(f"{posterior.method}: " + " | ".join(lines), findings[0].category)
        posterior = replace(posterior, warnings=tuple(lines))
    return posterior


def _require_chains(method: Method, given: Mapping[str, Any]) -> None:
    """Refuse an executor or a posterior to resume from if the method runs no chains."""
    if given and not getattr(method, "runs_chains", False):
        able = [name for name in registry.METHODS if getattr(registry.method_class(name), "runs_chains", False)]
        name = registry.name_of(method)
        raise TypeError(f"method {name!r} takes no {next(iter(given))}; methods that do: {', '.join(able)}")
    executor = given.get("executor")
    if executor is not None and not isinstance(executor, Executor):
        fix = "executor=concurrent.futures.ProcessPoolExecutor(2)"
        raise TypeError(problem("executor", found=repr(executor), expected="a concurrent.futures.Executor", fix=fix))


def method_of(method: str | Method, settings: dict[str, Any], verb: Callable[..., Any]) -> Method:
    """The method that a name with its settings stands for, or the one given, to a verb such as ``infer``."""
    if isinstance(method, str):
        made: Method = registry.make(method, settings, verb=verb)
        return made
    if settings:
        name = registry.name_of(method)
        raise TypeError(
            f"infer: found settings {sorted(settings)} beside a method; expected them inside it; write: {name}(...)"
        )
    kind: Any = method
    instance: Any = kind() if isinstance(method, type) else method
    if not hasattr(instance, "needs"):
        raise TypeError(
            f"infer: found {type(method).__name__} as the method; expected a name or a method; see ph.methods()"
        )
    checked: Method = instance
    return checked


@dataclass(frozen=True)
class MethodInfo:
    """A registered method: its name, what it is for, what it needs, its settings and their defaults."""

    name: str
    summary: str
    needs: str
    paper: str
    defaults: dict[str, Any]

    def __str__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self.defaults.items())
        return f"{self.name}: {self.summary}\n  needs {self.needs}\n  settings {settings}\n  {self.paper}"


def methods() -> list[MethodInfo]:
    """Every registered method.

    Example:
        >>> [info.name for info in methods()][:2]
        ['exact', 'rejection']
    """
    infos = []
    for name in (*registry.METHODS, *registry.CHOOSERS):
        kind = registry.method_class(name)
        defaults = settings_of(kind)
        summary = (kind.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        infos.append(MethodInfo(name, " ".join(summary.split()), str(kind.needs), getattr(kind, "paper", ""), defaults))
    return infos


def load(path: str | Path, model: Model | None = None) -> Posterior | Fitted:
    """Load what ``posterior.save`` or ``fitted.save`` wrote; nothing in the file is executed.

    Args:
        path: the file.
        model: the model, which is not stored. A posterior needs it for ``predict`` and ``log_likelihood``, a training
            always.

    Raises:
        DataFileError: there is no such file, it is something else, or it belongs to another model.
        ValueError: the file holds a training and no model was given.
    """
    if checkpoint.is_training(Path(path)):
        if model is None:
            raise ValueError(
                f"load: found a training in {path}; expected its model too; write: ph.load(path, model=model)"
            )
        return restore(path, model)
    fields = storage.read(Path(path))
    observed = fields.pop("observed")
    posterior = Posterior(**fields, model=model)
    if model is None:
        return posterior
    if difference := other_observations(model, observed) or mismatch(model, posterior, str(path)):
        raise DataFileError(f"{path}: found {difference}; expected a posterior of {model.name!r} given the same data")
    return posterior
