"""Errors and warnings: each message says where, what was found, what was expected, and what to write."""

from __future__ import annotations

import difflib
import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any


class PhlogistonError(Exception):
    """Base of every error that this library raises by itself."""


class ModelError(PhlogistonError, ValueError):
    """The program, its inputs or its observations cannot be used as they are."""


class ProgramError(ModelError):
    """The program raised an error of its own while it ran; that error is the ``__cause__``."""


class UnsupportedModel(ModelError):
    """The chosen method cannot treat this model; the message names methods that can."""


class UntraceableProgram(ModelError):
    """The program cannot be turned into a graph, for instance as it branches on a latent value."""


class SettingError(PhlogistonError, ValueError):
    """A setting has a value that makes no sense."""


class UnknownName(PhlogistonError, TypeError):
    """A method, a setting or a site that does not exist was named."""


class DataFileError(PhlogistonError, ValueError):
    """A data file or a model file is missing or malformed, or cannot be written."""


class ImpossibleEvidence(ModelError):
    """Every particle has likelihood zero: under this program the observations cannot happen."""


class WorkerDied(PhlogistonError, RuntimeError):
    """A process that ran some of the chains ended before it was done."""


class PhlogistonWarning(UserWarning):
    """Every warning of this library."""


class ConvergenceWarning(PhlogistonWarning):
    """Chains disagree, mix too slowly or diverge."""


class WeightWarning(PhlogistonWarning):
    """Importance weights are too uneven for their estimates to be believed."""


class RejectionWarning(PhlogistonWarning):
    """Fewer draws were accepted than were asked for, or the acceptance is approximate."""


class PlanWarning(PhlogistonWarning):
    """A method that ``"auto"`` chose was refuted by its diagnostics, and another was taken."""


class AmortisationWarning(PhlogistonWarning):
    """An amortised guide cannot reach the posterior, or its latents carry nothing of the data."""


class DeviceWarning(PhlogistonWarning):
    """A device was asked for that takes longer than the CPU."""


class ShapeWarning(PhlogistonWarning):
    """A site is batched without a plate."""


def problem(where: str, *, found: str, expected: str, fix: str = "") -> str:
    """One message in the library's form.

    Example:
        >>> problem("site 'y'", found="shape (7,)", expected="shape (8,)", fix=".observe(y=y[:8])")
        "site 'y': found shape (7,); expected shape (8,); write: .observe(y=y[:8])"
    """
    return f"{where}: found {found}; expected {expected}" + (f"; write: {fix}" if fix else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names as a question, then all of them.

    Example:
        >>> did_you_mean("nutz", ["nuts", "exact"])
        "did you mean 'nuts'? (known: exact, nuts)"
    """
    known = sorted(known)
    lower = {other.lower(): other for other in known}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.4)]
    listing = f"(known: {', '.join(known) or 'none'})"
    return f"did you mean {near[0]!r}? {listing}" if near else listing


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's code that called the library."""
    package, frame, level = str(Path(__file__).parent), sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def renamed(old: str, new: str) -> Any:
    """A method or property of a class under the name that it had one version ago; its use warns.

    Example:
        >>> class Circle:
        ...     radius = 2.0
        ...     size = renamed("size", "radius")
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     Circle().size, str(told[0].message)
        (2.0, 'Circle.size is now called radius; the old name goes with the next version')
    """

    def forward(self: Any) -> Any:
        warn_renamed(f"{type(self).__name__}.{old}", new)
        return getattr(self, new)

    return property(forward, doc=f"Old name of ``{new}``.")


def warn_renamed(old: str, new: str) -> None:
    """Warn that a public name has changed."""
    warn(f"{old} is now called {new}; the old name goes with the next version", DeprecationWarning)


def _is_number(value: Any) -> bool:
    """Python's numbers and NumPy's, but not truth values."""
    return isinstance(value, Real) and not isinstance(value, bool)


def one_of(choices: Sequence[str], **settings: str) -> None:
    """Refuse settings that are none of the choices."""
    for name, value in settings.items():
        if value not in choices:
            raise SettingError(problem(name, found=repr(value), expected=" or ".join(map(repr, choices))))


def positive(**settings: Any) -> None:
    """Refuse settings that are not positive numbers."""
    for name, value in settings.items():
        if not _is_number(value) or not 0 < value < math.inf:
            raise SettingError(problem(name, found=repr(value), expected="a number above zero"))


def non_negative(**settings: Any) -> None:
    """Refuse settings that are not finite numbers from zero on."""
    for name, value in settings.items():
        if not _is_number(value) or not 0 <= value < math.inf:
            raise SettingError(problem(name, found=repr(value), expected="a number from zero on"))


def unit_interval(**settings: Any) -> None:
    """Refuse settings that are not numbers from 0 to 1."""
    for name, value in settings.items():
        if not _is_number(value) or not 0.0 <= value <= 1.0:
            raise SettingError(problem(name, found=repr(value), expected="a number from 0 to 1"))


def open_unit_interval(**settings: Any) -> None:
    """Refuse settings that are not numbers strictly between 0 and 1."""
    for name, value in settings.items():
        if not _is_number(value) or not 0.0 < value < 1.0:
            raise SettingError(problem(name, found=repr(value), expected="a number between 0 and 1"))


def non_negative_int(**settings: Any) -> None:
    """Refuse settings that are not integers from zero on."""
    _integers(0, "an integer, zero or above", settings)


def positive_int(**settings: Any) -> None:
    """Refuse settings that are not positive integers."""
    _integers(1, "an integer above zero", settings)


def _integers(least: int, expected: str, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if not _is_number(value) or not isinstance(value, Integral) or value < least:
            raise SettingError(problem(name, found=repr(value), expected=expected))
