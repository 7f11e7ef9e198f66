"""Latent-variable models as Pyro programs, any inference method by name, diagnostics that say whether to believe it."""

import ast
import importlib
import pkgutil
from typing import Any

__version__ = "0.1.0"


def _modules_of_names() -> dict[str, str]:
    """The module of each public name, read from the stub beside this file, so that each name is written once."""
    stub = pkgutil.get_data(__name__, "__init__.pyi") or b""
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


# A module is imported when one of its names is first used, so that the command line answers before torch is loaded.
_MODULE_OF = _modules_of_names()
__all__ = sorted(_MODULE_OF)

# Names of one version ago and what they are called now.
_RENAMED = {"Report": "Diagnosis"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        from phlogiston.errors import warn_renamed

        warn_renamed(f"phlogiston.{name}", _RENAMED[name])
        return __getattr__(_RENAMED[name])
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'phlogiston' has no attribute {name!r}")
    module = importlib.import_module(_MODULE_OF[name])
    if hasattr(module, name):
        return getattr(module, name)
    return importlib.import_module(f"{_MODULE_OF[name]}.{name}")  # a folder with names of its own, as divergence


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
