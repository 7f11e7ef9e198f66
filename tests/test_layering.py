"""The order in which the library is built, read from its imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "phlogiston"
FILES = sorted(SOURCE.rglob("*.py"))

# From the lowest: a part imports from itself and from the parts before it.
ORDER = (
    "errors",
    "engine",
    "model",
    "stats",
    "posterior",
    "training",
    "inference",
    "diagnostics",
    "report",
    "cli",
)
# The package itself, which only holds the version and the table of public names, may be imported by all.
ENTRANCES = ("__init__", "__main__")

# Methods and functions whose work is done by a later part: they import it when they are called.
VERBS = {
    "model/reparam.py": {"_learned"},  # ph.reparam(model, "learn") trains a guide
    "posterior/posterior.py": {"diagnose", "plot", "report"},
    "posterior/predictive_checks.py": {"plot"},
    "training/fitted.py": {"diagnose", "film", "report"},
    "diagnostics/calibrate/result.py": {"plot"},
    "diagnostics/compare/agree.py": {"plot", "report"},
    "diagnostics/compare/generators.py": {"plot", "report"},
}

# What only some files and folders may touch.
RESERVED = {
    "arviz": ("stats/arviz.py",),
    "arviz_base": ("stats/arviz.py",),
    "arviz_stats": ("stats/arviz.py",),
    "arviz_plots": ("stats/arviz.py",),
    "pyro.poutine": ("engine",),
    "pyro.infer": ("engine",),
    "functorch": ("engine",),
    "torch.func": ("engine",),
    "torch._functorch": ("engine",),
    "torch.fx": ("engine",),
    "torch._inductor": ("engine",),
    "torch._dynamo": ("engine",),
    "torch.compile": ("engine",),
    "make_fx": ("engine",),
}
OUTSIDE = {"models", "tutorials", "benchmarks", "tools", "tests"}

MOST_FILES_IN_A_FOLDER = 18
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40  # without the docstring
MAX_ARGUMENTS = 7
MAX_COMPLEXITY = 15

# Verbs that users call, each of whose settings is named in the call and documented on its own: they do not count.
PUBLIC_VERBS = {"calibrate", "compare_generators"}

# What is still over a limit, to be taken apart; a test fails when an entry is no longer needed.
LONG_FILES: set[str] = set()
TANGLED: dict[str, set[str]] = {
    "inference/variational/learned.py": {"learn"},
    "inference/variational/training.py": {"fitted"},
    "training/adversarial/critics.py": {"__init__"},
    "training/adversarial/loop.py": {"play"},
    "training/adversarial/steps.py": {"__init__"},
    "training/adversarial/trainer.py": {"fit"},
    "training/amortised/epochs.py": {"learn"},
    "training/amortised/fit.py": {"fit"},
    "training/maximise.py": {"maximise"},
}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def part_of(file: Path) -> str:
    first = file.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def place_of(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


def imports_of(file: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, inside functions too; ``from a import b`` is ``a.b``."""
    for node in ast.walk(tree_of(file)):
        yield from ((line, name) for line, name, _ in names_imported(node))


def imports_with_functions(tree: ast.AST, function: str = "") -> Iterator[tuple[int, str, str]]:
    """The imports that run, each with the function that it stands in; those for type checkers alone are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        inside = node.name if isinstance(node, ast.FunctionDef) else function
        yield from ((line, name, function) for line, name, _ in names_imported(node))
        yield from imports_with_functions(node, inside)


def names_imported(node: ast.AST) -> Iterator[tuple[int, str, str]]:
    if isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name, "") for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((node.lineno, f"{node.module}.{alias.name}", "") for alias in node.names)


def uses_of(file: Path) -> Iterator[tuple[int, str]]:
    """The imports, and every dotted expression such as ``torch.func.vmap``."""
    yield from imports_of(file)
    own = {name.split(".")[-1] for _, name in imports_of(file) if within(name, "phlogiston")}
    attributes = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in attributes}
    names = ((node.lineno, dotted(node)) for node in attributes if id(node) not in inner)
    yield from ((line, name) for line, name in names if name.split(".")[0] not in own)


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
def test_every_file_has_a_place(file: Path) -> None:
    assert part_of(file) in (*ORDER, *ENTRANCES), f"{part_of(file)!r} is none of the parts {ORDER}"


@each_file
def test_imports_come_from_earlier_parts(file: Path) -> None:
    own, verbs = part_of(file), VERBS.get(place_of(file), set())
    wrong = [
        f"line {line}: {own} imports {part}" + (f" in {function}" if function else "")
        for line, name, function in imports_with_functions(tree_of(file))
        if (part := imported_part(name)) is not None and not may_import(own, part) and function not in verbs
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("place", VERBS)
def test_every_verb_that_is_listed_imports_a_later_part(place: str) -> None:
    file = SOURCE / place
    later = {
        function
        for _, name, function in imports_with_functions(tree_of(file))
        if (part := imported_part(name)) is not None and not may_import(part_of(file), part)
    }
    assert later == VERBS[place]


def may_import(own: str, part: str) -> bool:
    if own in ENTRANCES or part == "__init__":
        return True
    return part in ORDER and ORDER.index(part) <= ORDER.index(own)


@each_file
def test_reserved_modules_are_touched_where_they_belong(file: Path) -> None:
    place = place_of(file)
    wrong = []
    for line, name in uses_of(file):
        matches = [prefix for prefix in RESERVED if within(name, prefix) or name.split(".")[-1] == prefix == "make_fx"]
        allowed = RESERVED[max(matches, key=len)] if matches else ()
        if matches and not any(place == path or place.startswith(path + "/") for path in allowed):
            wrong.append(f"line {line}: {name} belongs to {' and '.join(allowed)}")
    assert not wrong, "\n".join(wrong)


def test_no_folder_is_crowded() -> None:
    folders = {file.parent for file in FILES}
    count = {folder: len([f for f in folder.glob("*.py") if f.name != "__init__.py"]) for folder in folders}
    crowded = {place_of(folder): n for folder, n in count.items() if n > MOST_FILES_IN_A_FOLDER}
    assert not crowded, f"folders with more than {MOST_FILES_IN_A_FOLDER} files: {crowded}"


def test_the_top_of_the_package_holds_the_parts_and_nothing_else() -> None:
    entries = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.name != "__pycache__"}
    assert entries == {*ORDER, *ENTRANCES, "__init__.pyi", "py.typed"}


@each_file
def test_nothing_outside_the_package_is_imported(file: Path) -> None:
    wrong = [f"line {line}: {name}" for line, name in imports_of(file) if name.split(".")[0] in OUTSIDE]
    assert not wrong, "\n".join(wrong)


def functions_of(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in ast.walk(tree_of(file)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def length_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function, its docstring left out."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    doc = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - doc


def num_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    named = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    if function.name not in PUBLIC_VERBS:
        named += [a.arg for a in function.args.kwonlyargs]
    return len(named) - (named[:1] in (["self"], ["cls"]))


def complexity_of(function: ast.AST) -> int:
    """McCabe's cyclomatic complexity, counted as radon does, the functions inside included."""
    branches = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.Lambda)
    found = 1
    for node in ast.walk(function):
        found += isinstance(node, (*branches, ast.match_case))
        found += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        found += 1 + len(node.ifs) if isinstance(node, ast.comprehension) else 0
        found += bool(node.orelse) if isinstance(node, ast.For | ast.AsyncFor | ast.While) else 0
    return found


def is_tangled(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    measured = length_of(function), num_arguments(function), complexity_of(function)
    limits = MAX_FUNCTION_LINES, MAX_ARGUMENTS, MAX_COMPLEXITY
    return any(number > limit for number, limit in zip(measured, limits, strict=True))


@each_file
def test_files_are_short(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert (lines > MAX_FILE_LINES) == (place_of(file) in LONG_FILES), f"{lines} lines; the limit is {MAX_FILE_LINES}"


@each_file
def test_functions_are_short_and_simple(file: Path) -> None:
    found = {function.name for function in functions_of(file) if is_tangled(function)}
    assert found == TANGLED.get(place_of(file), set()), (
        f"the limits are {MAX_FUNCTION_LINES} lines, {MAX_ARGUMENTS} arguments, complexity {MAX_COMPLEXITY}"
    )


def test_complexity_counts_each_branch_once() -> None:
    source = "def f(x):\n    if x and not x or x:\n        return [y for y in x if y]\n    return 1 if x else 2"
    assert complexity_of(ast.parse(source).body[0]) == 1 + 1 + 2 + 2 + 1


@pytest.mark.parametrize(
    ("own", "part", "allowed"),
    [
        ("engine", "errors", True),
        ("engine", "engine", True),
        ("engine", "model", False),
        ("model", "engine", True),
        ("model", "posterior", False),
        ("posterior", "report", False),
        ("inference", "training", True),
        ("training", "inference", False),
        ("inference", "diagnostics", False),
        ("report", "diagnostics", True),
        ("__main__", "cli", True),
    ],
)
def test_the_order_is_the_one_meant(own: str, part: str, allowed: bool) -> None:
    assert may_import(own, part) is allowed
