"""All programs of the corpus, by file and name."""

from __future__ import annotations

import importlib

from programs.case import Case

FILES = ("plates", "sequences", "mixtures", "regression", "networks", "handlers", "distributions")
CASES: dict[str, Case] = {
    f"{case.name}": case for file in FILES for case in importlib.import_module(f"programs.{file}").table.cases.values()
}
