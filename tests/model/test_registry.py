"""Tables of what can be named, from inside the library and from outside."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import PurePath
from typing import Any

import pytest

import phlogiston as ph
from phlogiston.model.registry import Registry


def table(**more: Any) -> Registry:
    return Registry("shape", {"path": "pathlib:PurePath", "here": int}, unlisted={"chosen": float}, **more)


def test_items_are_loaded_by_their_place() -> None:
    shapes = table()
    assert shapes["path"] is PurePath
    assert shapes["here"] is int
    assert shapes["chosen"] is float
    assert list(shapes) == ["path", "here"]
    assert "chosen" in shapes
    assert shapes.name_of(3) == "here"
    assert shapes.name_of(PurePath) == "path"
    assert shapes.name_of("text") == "str"


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ph.UnknownName, match=r"unknown shape 'paht'; did you mean 'path'\?"):
        table()["paht"]


@pytest.mark.parametrize(("name", "item"), [("path", int), ("", int), (3, int), ("other", 3)])
def test_what_cannot_be_registered(name: Any, item: Any) -> None:
    shapes = table(accepts=callable, expected="something callable")
    with pytest.raises(ph.SettingError, match="expected"):
        shapes.register(name, item)


def test_an_item_may_be_registered_twice() -> None:
    shapes = table()
    shapes.register("square", bytes)
    shapes.register("square", bytes)
    assert shapes["square"] is bytes
    shapes.unregister("square")
    assert "square" not in shapes


def test_settings_of_an_item_are_checked_by_name() -> None:
    shapes = Registry("shape", {"fraction": "fractions:Fraction"})
    assert shapes.make("fraction", {"numerator": 3}) == 3
    with pytest.raises(
        ph.UnknownName, match=r"shape 'fraction' has no setting 'numerater'; did you mean 'numerator'\?"
    ):
        Registry("shape", {"fraction": "fractions:Fraction"}).make("fraction", {"numerater": 1})


def test_entry_points_are_read_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        groups.append(group)
        return [metadata.EntryPoint("outside", "fractions:Fraction", group)]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    shapes = table()
    assert shapes["path"] is PurePath
    assert groups == []
    assert shapes["outside"].__name__ == "Fraction"
    assert list(shapes) == ["path", "here", "outside"]
    assert groups == ["phlogiston.shapes"]


def test_an_unknown_kind_is_told_the_nearest() -> None:
    with pytest.raises(ph.UnknownName, match=r"register: found kind 'methods'; did you mean 'method'\?"):
        ph.register("methods", "mine", int)


def test_a_class_that_is_no_method_is_refused() -> None:
    with pytest.raises(ph.SettingError, match=r"method 'mine': found <class 'int'>; expected a class with `needs`"):
        ph.register("method", "mine", int)


def test_names_are_listed_without_torch() -> None:
    code = (
        "import sys\nfrom phlogiston.inference.registry import METHODS\n"
        "assert 'nuts' in list(METHODS)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
