"""The order in which the library is built, read from its imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "phlogiston"
FILES = sorted(SOURCE.rglob("*.py"))

# From the lowest. A part is a file or a folder; it imports from the lines above its own, and a folder from itself.
LAYERS = [
    ["errors", "version"],
    ["nets", "estimate", "reference", "registry", "checkpoint"],
    ["decomposition"],
    ["engine"],
    ["preflight", "arviz_edge", "divergence"],
    ["diagnostics"],
    ["model"],
    ["rows"],
    ["measurement"],
    ["guides"],
    ["drawn", "plan"],
    ["plots", "predictive", "groups", "tables", "trust", "trust_training"],
    ["storage", "checking"],
    ["report"],
    ["posterior"],
    ["matching"],
    ["evaluation"],
    ["fitted"],
    ["kernels"],
    ["algorithms"],
    ["adversarial"],
    ["training"],
    ["recentring"],
    ["choosing"],
    ["inference"],
    ["comparison"],
    ["calibration"],
    ["cli"],
    ["__main__"],
    ["__init__"],
]
LAYER_OF = {part: depth for depth, parts in enumerate(LAYERS) for part in parts}
# Narrower than its layer: density code knows nothing of the library but its errors.
ONLY = {"engine": {"errors"}}

# What only some parts may touch.
RESERVED = {
    "arviz": {"arviz_edge"},
    "arviz_base": {"arviz_edge"},
    "arviz_stats": {"arviz_edge"},
    "arviz_plots": {"arviz_edge"},
    "pyro.poutine": {"engine"},
    "pyro.infer": {"engine"},
    "functorch": {"engine"},
    "torch.func": {"engine"},
    "torch._functorch": {"engine"},
    "torch.fx": {"engine"},
    "torch._inductor": {"engine"},
    "torch._dynamo": {"engine"},
    "torch.compile": {"engine"},
}
OUTSIDE = {"models", "tutorials", "benchmarks", "tools", "tests"}

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def part_of(file: Path) -> str:
    first = file.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports_of(file: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, inside functions too; ``from a import b`` is ``a.b``."""
    package = ("phlogiston", *file.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def uses_of(file: Path) -> Iterator[tuple[int, str]]:
    """The imports, and every dotted expression such as ``torch.func.vmap``."""
    yield from imports_of(file)
    attributes = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in attributes}
    yield from ((node.lineno, dotted(node)) for node in attributes if id(node) not in inner)


def dotted(node: ast.expr) -> str:
    """``a.b.c`` as written; the part after a call or an index, as in ``f().b.c``, starts with a dot."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}"
    return ""


def imported_part(name: str) -> str | None:
    """The part of the library that an import takes, or None where it is not of the library."""
    first, *rest = name.split(".")
    if first != "phlogiston":
        return None
    is_part = rest and ((SOURCE / rest[0]).is_dir() or (SOURCE / f"{rest[0]}.py").exists())
    return rest[0] if is_part else "__init__"


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@each_file
def test_every_file_has_a_layer(file: Path) -> None:
    assert part_of(file) in LAYER_OF, (
        f"{file.name}: {part_of(file)!r} is in no layer; add it to LAYERS in tests/test_layering.py, "
        "just above the highest part that it imports"
    )


@each_file
def test_imports_come_from_lower_layers(file: Path) -> None:
    own = part_of(file)
    if own not in LAYER_OF:
        pytest.skip(f"{own!r} has no layer, which another test says")
    wrong = [
        f"line {line}: {own} (layer {LAYER_OF[own]}) imports {part} (layer {LAYER_OF.get(part)})"
        for line, name in imports_of(file)
        if (part := imported_part(name)) is not None and not may_import(own, part)
    ]
    assert not wrong, "\n".join(wrong)


def may_import(own: str, part: str) -> bool:
    if part == own:
        return True
    return LAYER_OF.get(part, len(LAYERS)) < LAYER_OF[own] and part in ONLY.get(own, LAYER_OF)


@each_file
def test_reserved_modules_are_touched_where_they_belong(file: Path) -> None:
    own = part_of(file)
    wrong = []
    for line, name in uses_of(file):
        matches = [prefix for prefix in RESERVED if within(name, prefix)]
        if matches and own not in (allowed := RESERVED[max(matches, key=len)]):
            wrong.append(f"line {line}: {name} belongs to {' and '.join(sorted(allowed))}")
        if name.split(".")[-1] == "make_fx" and own != "engine":
            wrong.append(f"line {line}: make_fx belongs to engine")
    assert not wrong, "\n".join(wrong)


@each_file
def test_nothing_outside_the_package_is_imported(file: Path) -> None:
    wrong = [f"line {line}: {name}" for line, name in imports_of(file) if name.split(".")[0] in OUTSIDE]
    assert not wrong, "\n".join(wrong)


@each_file
def test_files_are_short(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines; the limit is {MAX_FILE_LINES}: does the file hold one idea?"


@each_file
def test_functions_are_short(file: Path) -> None:
    functions = (n for n in ast.walk(tree_of(file)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    long = [
        f"line {f.lineno}: {f.name} has {length} lines; the limit is {MAX_FUNCTION_LINES}"
        for f in functions
        if (length := (f.end_lineno or f.lineno) - f.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_the_table_names_no_part_twice() -> None:
    assert len(LAYER_OF) == sum(map(len, LAYERS))


@pytest.mark.parametrize(
    ("own", "part", "allowed"),
    [
        ("engine", "errors", True),
        ("engine", "engine", True),
        ("engine", "registry", False),
        ("engine", "model", False),
        ("model", "engine", True),
        ("model", "preflight", True),
        ("model", "posterior", False),
        ("plots", "posterior", False),
        ("posterior", "plots", True),
        ("algorithms", "algorithms", True),
        ("algorithms", "inference", False),
        ("inference", "__init__", False),
        ("__main__", "cli", True),
    ],
)
def test_the_order_is_the_one_meant(own: str, part: str, allowed: bool) -> None:
    assert may_import(own, part) is allowed
