"""The model in a Python file."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from phlogiston.errors import DataFileError, ModelError, ProgramError, SettingError, UnknownName, did_you_mean, problem

if TYPE_CHECKING:
    from phlogiston.model.model import Model

_OURS = (ModelError, DataFileError, SettingError, UnknownName)
_DEFINITION = "model = ph.Model(program, inputs...).observe(site=values)"


def locate(text: str) -> tuple[Path, str]:
    """The file and the name in it that ``file.py`` or ``file.py:name`` stands for.

    Raises:
        DataFileError: there is no such file, or it is not a Python file.
    """
    named = re.fullmatch(r"(.+\.py):(\w+)", text)
    path, name = (Path(named[1]), named[2]) if named else (Path(text), "model")
    if path.suffix != ".py":
        raise DataFileError(problem(str(path), found="no Python file", expected="file.py or file.py:name"))
    if not path.is_file():
        raise DataFileError(f"{path}: found no such file; expected a Python file that defines `{name}`")
    return path, name


@contextmanager
def opened(path: Path, name: str) -> Iterator[Model]:
    """The model of a file, with the file's folder importable for as long as the model is in use.

    Raises:
        DataFileError: the file raises (its line is in the message), or does not define the model.
        UnknownName: it defines models, but none of that name.
        ProgramError: the program raised while it was in use.
    """
    import phlogiston.model.model  # noqa: F401  # before the file's folder can shadow anything

    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        yield _model_in(_module(path), path, name)
    except _OURS:
        raise
    except Exception as error:
        where = _line(error, path)
        if where is None:  # nothing of the user's: a fault of the library, which keeps its traceback
            raise
        raise ProgramError(f"{where}: the program raised {_described(error)}") from error
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def _module(path: Path) -> ModuleType:
    """The file, run as a module under a name that no other module has."""
    spec = importlib.util.spec_from_file_location(f"phlogiston_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataFileError(problem(str(path), found="a file that cannot be imported", expected="a Python file"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        what = str(error) if isinstance(error, _OURS) else f"the file raised {_described(error)}"
        raise DataFileError(f"{_line(error, path) or path}: {what}") from error
    return module


def _model_in(module: ModuleType, path: Path, name: str) -> Model:
    from phlogiston.model.model import Model

    found = vars(module).get(name)
    if isinstance(found, Model):
        return found
    models = [key for key, value in vars(module).items() if isinstance(value, Model)]
    if name != "model" and name not in vars(module):
        raise UnknownName(f"{path}: found no model {name!r}; {did_you_mean(name, models)}")
    what = f"a {type(found).__name__} called {name!r}" if name in vars(module) else f"no {name!r}"
    fix = " or ".join(f"{path}:{key}" for key in models) or _DEFINITION
    raise DataFileError(problem(str(path), found=what, expected="a ph.Model", fix=fix))


def _described(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return type(error).__name__ + (f": {text}" if text.strip() else "")


def _line(error: BaseException, path: Path) -> str | None:
    """``file.py:line``, the innermost line of the model file or of a file beside it at which an error arose."""
    folder = path.parent.resolve()
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        places.append((error.filename, error.lineno))
    own = [(file, line) for file, line in places if Path(file).resolve().parent == folder]
    return f"{path.parent / Path(own[-1][0]).name}:{own[-1][1]}" if own else None
