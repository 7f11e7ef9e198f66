"""Tables of what can be named: methods, guides, checks, moves and losses, those of other packages among them."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from phlogiston.errors import SettingError, UnknownName, did_you_mean, problem

# The table of each kind of thing that a user can add. They are named by path, so that this file imports none of them.
TABLES: dict[str, str] = {
    "method": "phlogiston.inference.registry:METHODS",
    "guide": "phlogiston.training.guides:GUIDES",
    "check": "phlogiston.diagnostics.diagnose:CHECKS",
    "move": "phlogiston.inference.particles.moves:MOVES",
    "loss": "phlogiston.training.adversarial.losses:LOSSES",
}


class Registry:
    """Items by name, each loaded when it is first used.

    Entry points of the group ``phlogiston.methods``, ``phlogiston.losses`` and so on, by kind, belong to the table
    too. They are read only when a name is not otherwise known, or when all names are listed, as reading them takes
    longer than anything else here.

    Args:
        kind: what an item is, for messages and for the name of the group: "method".
        items: by name, each the item itself or its place, as ``"package.module:attribute"``.
        unlisted: items that can be named but are not listed with the others.
        accepts: whether an object can be an item of this table.
        expected: what ``accepts`` accepts, in words.

    Example:
        >>> table = Registry("shape", {"path": "pathlib:PurePath"})
        >>> table["path"]
        <class 'pathlib.PurePath'>
        >>> table.register("square", int)
        >>> list(table), table.name_of(3)
        (['path', 'square'], 'square')
    """

    def __init__(
        self,
        kind: str,
        items: Mapping[str, Any],
        *,
        unlisted: Mapping[str, Any] | None = None,
        accepts: Callable[[Any], bool] = lambda item: True,
        expected: str = "an object",
    ) -> None:
        self.kind = kind
        self._items = dict(items)
        self._unlisted = dict(unlisted or {})
        self._accepts, self._expected = accepts, expected
        self._has_entry_points = False

    def __iter__(self) -> Iterator[str]:
        self._read_entry_points()
        return iter(tuple(self._items))

    def __contains__(self, name: object) -> bool:
        return name in self._items or name in self._unlisted or name in tuple(self)  # reads the entry points

    def __getitem__(self, name: str) -> Any:
        """The item that a name stands for.

        Raises:
            UnknownName: there is none; the nearest name is in the message.
        """
        if name not in self:
            known = {**self._items, **self._unlisted}
            raise UnknownName(f"unknown {self.kind} {name!r}; {did_you_mean(str(name), known)}")
        table = self._items if name in self._items else self._unlisted
        if isinstance(table[name], str):
            table[name] = self._checked(name, _load(table[name]))
        return table[name]

    def register(self, name: str, item: Any) -> None:
        """Add an item, or its place as ``"package.module:attribute"``, under a name that is still free.

        Raises:
            SettingError: the name is taken or empty, or the item is not of this kind.
        """
        if not isinstance(name, str) or not name:
            raise SettingError(problem("register", found=f"the name {name!r}", expected="a string, not empty"))
        if name in self and self[name] is not item:
            found, expected = f"the name {name!r}, which is taken", f"a name for the {self.kind} that is free"
            raise SettingError(problem("register", found=found, expected=expected))
        self._items[name] = item if isinstance(item, str) else self._checked(name, item)

    def unregister(self, name: str) -> None:
        """Take back what ``register`` added."""
        del self._items[name]

    def name_of(self, item: Any) -> str:
        """The name of an item, of one of its instances or of its class; else the class name in lower case."""
        kind = item if isinstance(item, type) else type(item)
        places = (item, kind, f"{kind.__module__}:{kind.__qualname__}")
        table = {**self._items, **self._unlisted}
        return next((name for name, own in table.items() if any(own is p or own == p for p in places)), _lower(kind))

    def make(self, name: str, settings: Mapping[str, Any], verb: Callable[..., Any] | None = None) -> Any:
        """An item that is a class, called with settings, which ``verb`` took beside keywords of its own.

        Raises:
            UnknownName: there is no such item, or no such setting; the nearest name is in the message.
        """
        kind = self[name]
        known = settings_of(kind)
        for setting in settings:
            if setting not in known:
                hint = did_you_mean(setting, {**known, **_keywords(verb)})
                raise UnknownName(f"{self.kind} {name!r} has no setting {setting!r}; {hint}")
        return kind(**settings)

    def _checked(self, name: str, item: Any) -> Any:
        if not self._accepts(item):
            raise SettingError(problem(f"{self.kind} {name!r}", found=repr(item), expected=self._expected))
        return item

    def _read_entry_points(self) -> None:
        if not self._has_entry_points:
            from importlib.metadata import entry_points  # slow to import, and rarely needed

            for point in entry_points(group=f"phlogiston.{self.kind}{'es' if self.kind.endswith('s') else 's'}"):
                self._items.setdefault(point.name, point.value)
            self._has_entry_points = True


def register(kind: str, name: str, item: Any) -> None:
    """Add a method, guide, check, move or loss, which can then be named wherever those of the library can.

    A package does the same for whoever installs it by an entry point of the group ``phlogiston.methods``,
    ``phlogiston.guides``, ``phlogiston.checks``, ``phlogiston.moves`` or ``phlogiston.losses``.

    Args:
        kind: "method", "guide", "check", "move" or "loss".
        name: the name that will stand for it; it must be free.
        item: what the name stands for, or its place, as ``"package.module:attribute"``, which is loaded when used.

    Raises:
        UnknownName: there is no such kind.
        SettingError: the name is taken, or the item is not of this kind.

    Example:
        >>> ph.register("method", "quick", "phlogiston.inference.methods.modes:MAP")
        >>> "quick" in [info.name for info in ph.methods()]
        True
        >>> from phlogiston.inference.registry import METHODS
        >>> METHODS.unregister("quick")
    """
    if kind not in TABLES:
        raise UnknownName(f"register: found kind {kind!r}; {did_you_mean(str(kind), TABLES)}")
    table: Registry = _load(TABLES[kind])
    table.register(name, item)


def settings_of(kind: Any) -> dict[str, Any]:
    """The settings that a class takes, with their defaults; ``dataclasses.MISSING`` where there is none."""
    if dataclasses.is_dataclass(kind):
        return {field.name: field.default for field in dataclasses.fields(kind) if field.init}
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: dataclasses.MISSING if p.default is p.empty else p.default for p in parameters}


def _load(place: str) -> Any:
    module, _, path = place.partition(":")
    item: Any = importlib.import_module(module)
    for attribute in path.split("."):
        item = getattr(item, attribute)
    return item


def _lower(kind: type) -> str:
    return kind.__name__.lower()


def _keywords(verb: Callable[..., Any] | None) -> dict[str, None]:
    parameters = [] if verb is None else inspect.signature(verb).parameters.values()
    return dict.fromkeys(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
