"""Data files: numbers by name, which replace a model's inputs and observations."""

from __future__ import annotations

import csv
import inspect
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phlogiston.errors import DataFileError, did_you_mean, problem

if TYPE_CHECKING:
    from phlogiston.model.model import Model

Array = NDArray[Any]


def read(path: Path) -> dict[str, Array]:
    """The arrays of a .json, .csv or .npz file by name.

    Raises:
        DataFileError: there is no such file, or it is malformed; the message says where.
    """
    readers: dict[str, Callable[[Path], dict[str, Array]]] = {".json": _json, ".csv": _csv, ".npz": _npz}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        found = f"extension {path.suffix!r}" if path.suffix else "no extension"
        raise DataFileError(problem(str(path), found=found, expected=f"one of {', '.join(readers)}"))
    try:
        values = reader(path)
    except FileNotFoundError as error:
        raise DataFileError(f"{path}: found no such file; expected data") from error
    except UnicodeDecodeError as error:
        raise DataFileError(problem(str(path), found="bytes that are not text", expected="UTF-8 text")) from error
    except OSError as error:
        raise DataFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not values:
        raise DataFileError(problem(str(path), found="nothing in it", expected="at least one named value"))
    return values


def _json(path: Path) -> dict[str, Array]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataFileError(f"{path}:{error.lineno}:{error.colno}: found malformed JSON: {error.msg}") from error
    if not isinstance(content, dict):
        expected = 'an object, {"name": [1.0, 2.0], ...}'
        raise DataFileError(problem(str(path), found=f"a {type(content).__name__}", expected=expected))
    return {name: _numbers(path, name, value) for name, value in content.items()}


def _numbers(path: Path, name: str, value: Any) -> Array:
    where = f"{path}: {name!r}"
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataFileError(problem(where, found="uneven lists", expected="rows of one length")) from error
    if array.dtype.kind not in "fiub":
        odd = next(
            (
                item
                for item in _flat(value if isinstance(value, list) else array.ravel().tolist())
                if not isinstance(item, int | float)
            ),
            value,
        )
        expected = "a number, or a list of numbers" if odd is not None else "a number, or NaN where one is missing"
        raise DataFileError(problem(where, found="null" if odd is None else repr(odd), expected=expected))
    return array


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _npz(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: _numbers(path, name, stored[name]) for name in stored}
    except DataFileError:
        raise
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        fix = f'np.savez("{path.name}", name=array)'
        raise DataFileError(problem(str(path), found="no archive of plain arrays", expected="one", fix=fix)) from error


def _csv(path: Path) -> dict[str, Array]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
        except csv.Error as error:
            raise DataFileError(f"{path}:{reader.line_num}: found malformed CSV: {error}") from error
    if not rows:
        return {}
    (_, header), *body = rows
    _require_names(path, header)
    for line, row in body:
        if len(row) != len(header):
            raise DataFileError(problem(f"{path}:{line}", found=f"{len(row)} cells", expected=f"{len(header)}"))
    if not body:
        raise DataFileError(problem(str(path), found="a header and no rows", expected="a row for every observation"))
    return {name: np.asarray([_cell(path, line, name, row[i]) for line, row in body]) for i, name in enumerate(header)}


def _require_names(path: Path, header: list[str]) -> None:
    """Refuse a first line that is not one distinct name for every column, separated by commas."""
    if len(header) == 1 and (separator := next((s for s in ";\t|" if s in header[0]), "")):
        raise DataFileError(problem(f"{path}:1", found=f"columns separated by {separator!r}", expected="by commas"))
    if any(_number(name) is not None or not name for name in header):
        expected = "a header: the name of every column"
        raise DataFileError(problem(f"{path}:1", found=", ".join(map(repr, header[:5])), expected=expected))
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataFileError(problem(f"{path}:1", found=f"two columns {twice!r}", expected="each name once"))


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _cell(path: Path, line: int, name: str, text: str) -> int | float:
    value = _number(text)
    if value is None:
        found, missing = (repr(text), "") if text else ("an empty cell", ", or nan where one is missing")
        raise DataFileError(problem(f"{path}:{line}: column {name!r}", found=found, expected=f"a number{missing}"))
    return value


def given(model: Model, values: Mapping[str, Array], path: Path) -> Model:
    """The model with its inputs and observations of these names replaced; sizes may change with them.

    Raises:
        DataFileError: a name belongs to neither an input nor an observed site.
        ModelError: the values do not fit the program.
    """
    inputs, observations = _inputs(model), model.structure.observations
    known = {*inputs, *observations}
    for name in values:
        if name not in known:
            latent = any(site.name == name for site in model.structure.of("latent"))
            role = f"{name!r}, a latent; to condition on it, observe it in the model file" if latent else repr(name)
            raise DataFileError(
                f"{path}: found {role}; expected an input or an observed site; {did_you_mean(name, known)}"
            )
    changed = {name: _like(value, inputs[name]) for name, value in values.items() if name in inputs}
    # A site that the program itself conditions on one of its inputs follows that input.
    observed = {
        name: _like(value, observations[name])
        for name, value in values.items()
        if name in observations and (name not in inputs or name in model.observed)
    }
    fresh = model.unobserved().with_inputs(**changed)  # all at once, as a new size has to fit throughout
    observed = {**model.observed, **observed}
    return fresh.observe(**observed) if observed else fresh


def _inputs(model: Model) -> dict[str, Any]:
    """What each parameter that can be given by name is now: its input, or its default."""
    try:
        parameters = inspect.signature(model.program).parameters.values()
    except ValueError:  # a builtin without one
        return {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: model.inputs.get(p.name, p.default) for p in parameters if p.kind in by_name}


def _like(value: Array, present: Any) -> Any:
    """A value in the kind that the model has at present: the 1 of a file may stand for 1.0, and its 1.0 for 1."""
    if isinstance(present, list | tuple) and value.ndim:
        return type(present)(value.tolist())
    dtype = getattr(present, "dtype", None)
    if isinstance(present, float) or (dtype is not None and dtype.is_floating_point):
        value = value.astype(np.float64)
    elif value.dtype.kind == "f" and (isinstance(present, int) or dtype is not None):
        value = value.astype(np.int64) if bool(np.all(value == np.trunc(value))) else value
    return value.item() if isinstance(present, int | float) and value.ndim == 0 else value
