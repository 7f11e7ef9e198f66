"""``phlogiston run``, ``phlogiston check`` and ``phlogiston recommend``."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phlogiston.cli import datafile, modelfile
from phlogiston.cli.arguments import DOUBTFUL, FINE, INTERRUPTED, WRONG
from phlogiston.engine import files
from phlogiston.errors import DataFileError, PhlogistonWarning, PlanWarning, SettingError, UnknownName
from phlogiston.inference import registry

if TYPE_CHECKING:
    from phlogiston.posterior.posterior import Posterior


def run(arguments: argparse.Namespace) -> int:
    """Infer, report and write; the exit code."""
    path, name = modelfile.locate(arguments.model)
    values = _values(arguments)
    method = _method(arguments.method, dict(arguments.settings))
    from phlogiston.cli import terminal
    from phlogiston.inference.infer import infer

    with _recorded() as caught, modelfile.opened(path, name) as model:
        model = datafile.given(model, values, arguments.data) if values else model
        folder = None if arguments.out is None else _made(arguments.out)
        progress = not (arguments.quiet or arguments.no_progress)
        posterior = infer(model, method, seed=arguments.seed, progress=progress)
        if not arguments.quiet:
            print(terminal.report(posterior, arguments.model), flush=True)  # before the warnings, wherever both go
        doubts = terminal.doubts(posterior, [str(warning.message) for warning in caught if _is_doubt(warning)])
        for doubt in doubts:
            print(doubt, file=sys.stderr)
        written = [] if folder is None else _write(posterior, folder)
        if arguments.report:
            written.append(_report(posterior, folder or Path(), arguments))
        if not arguments.quiet:
            print(terminal.whereabouts(written))
    if posterior.interrupted:
        return INTERRUPTED
    return DOUBTFUL if doubts and arguments.strict else FINE


def check(arguments: argparse.Namespace) -> int:
    """Print the sites and the problems; the exit code."""
    path, name = modelfile.locate(arguments.model)
    values = _values(arguments)
    from phlogiston.cli import listing

    with modelfile.opened(path, name) as model:
        model = datafile.given(model, values, arguments.data) if values else model
        problems = model.check()
        print(listing.sites(model))
        print(listing.problems(problems))
    return WRONG if any(problem.severity == "error" for problem in problems) else FINE


def recommend(arguments: argparse.Namespace) -> int:
    """Print the plan; the exit code."""
    path, name = modelfile.locate(arguments.model)
    values = _values(arguments)
    from phlogiston.inference.auto.auto import recommend as planned

    with modelfile.opened(path, name) as model:
        print(planned(datafile.given(model, values, arguments.data) if values else model))
    return FINE


def _method(name: str, settings: dict[str, Any]) -> Any:
    try:
        return registry.make(name, settings)
    except (UnknownName, SettingError):
        raise
    except (TypeError, ValueError) as error:  # a value of a kind that the method did not reckon with
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise SettingError(f"method {name!r} cannot take the settings {given}: {error}") from error


def _values(arguments: argparse.Namespace) -> dict[str, datafile.Array]:
    return {} if arguments.data is None else datafile.read(arguments.data)


@contextmanager
def _recorded() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings so far; in the end those of others are shown as ever, the library's are the caller's to show."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PhlogistonWarning)
            yield caught
    finally:
        for other in (warning for warning in caught if not _is_ours(warning)):
            warnings.showwarning(other.message, other.category, other.filename, other.lineno)


def _is_ours(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, PhlogistonWarning)


def _is_doubt(warning: warnings.WarningMessage) -> bool:
    """Whether it says something of the result; what a plan tried before is told with the result."""
    return _is_ours(warning) and not issubclass(warning.category, PlanWarning)


def _made(folder: Path) -> Path:
    """The folder, made before the run rather than found impossible after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFileError(f"--out {folder}: cannot be made: {error.strerror or error}") from error
    return folder


def _report(posterior: Posterior, folder: Path, arguments: argparse.Namespace) -> Path:
    command = shlex.join(["phlogiston", *arguments.argv])
    return posterior.report(folder / "report.html", command=command)


def _write(posterior: Posterior, folder: Path) -> list[Path]:
    try:
        draws = posterior.save(folder / "posterior.nc")
        table = files.write(folder / "summary.csv", posterior.summary().to_csv(index_label="site").encode())
        return [draws, table, *map(Path, posterior.plot.all(folder))]
    except OSError as error:
        raise DataFileError(f"--out {folder}: cannot be written: {error.strerror or error}") from error
