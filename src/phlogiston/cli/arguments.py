"""The arguments of every command, and the exit codes."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any, NoReturn

from phlogiston import __version__
from phlogiston.inference.registry import CHOOSERS, METHODS

FINE, WRONG, USAGE, DOUBTFUL, INTERRUPTED = 0, 1, 2, 3, 130

_CODES = f"""\
exit codes:
  {FINE}    done; warnings, if any, are on standard error
  {WRONG}    the model, its data or the value of a setting is wrong, or a file cannot be read or written
  {USAGE}    wrong usage: an unknown option, method, setting or model name, or a malformed --set
  {DOUBTFUL}    run --strict: the run finished, but its diagnostics say not to believe it
  {INTERRUPTED}  stopped by Ctrl-C; what had been drawn by then is shown and written where the method allows it
"""
_MODEL = "file.py, which defines a ph.Model called `model`; file.py:name for another one in it"
_DATA = """\
file whose entries replace the model's inputs and observations of the same names: .json (an object of numbers and
lists), .csv (named columns) or .npz (arrays)"""


class _Parser(argparse.ArgumentParser):
    """argparse that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, where the help is, and exit."""
        self.exit(USAGE, f"phlogiston: error: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The parser of ``phlogiston``."""
    top = _parser("phlogiston", "Latent-variable models as Pyro programs, any inference method by name.")
    top.add_argument("--version", action="version", version=f"phlogiston {__version__}")
    top.add_argument("--traceback", action="store_true", help="show where an error arose")
    shared = _Parser(add_help=False)
    shared.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help="show where an error arose")
    commands = top.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        kind = argparse.RawDescriptionHelpFormatter
        return commands.add_parser(
            name, parents=[shared], formatter_class=kind, help=summary, description=summary, epilog=_CODES
        )

    _run_arguments(command("run", "draw from a model's posterior, judge the draws, write them down"))
    check = command("check", "list a model's sites and what is wrong with them")
    check.add_argument("model", help=_MODEL)
    check.add_argument("--data", type=Path, metavar="FILE", help=_DATA)
    recommend = command("recommend", "say which methods to try on a model, in which order, and why; run none")
    recommend.add_argument("model", help=_MODEL)
    recommend.add_argument("--data", type=Path, metavar="FILE", help=_DATA)
    methods = command("methods", "list the methods with what they need and their settings")
    methods.add_argument("--markdown", action="store_true", help="as the table of the README")
    return top


def _parser(name: str, description: str) -> _Parser:
    return _Parser(
        prog=name, description=description, epilog=_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _run_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("model", help=_MODEL)
    run.add_argument("--method", required=True, metavar="NAME", help=f"one of {', '.join([*METHODS, *CHOOSERS])}")
    run.add_argument("--seed", type=_seed, metavar="N", help="of every random number; drawn and shown by default")
    run.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        dest="settings",
        metavar="NAME=VALUE",
        help="a setting of the method, as often as needed; `phlogiston methods` lists them",
    )
    run.add_argument("--data", type=Path, metavar="FILE", help=_DATA)
    run.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write posterior.nc, summary.csv and pictures (PNG) there"
    )
    run.add_argument(
        "--report", action="store_true", help="write report.html, one page to hand on, into --out or the current folder"
    )
    run.add_argument("--strict", action="store_true", help=f"exit with {DOUBTFUL} where there are warnings")
    run.add_argument("--no-progress", action="store_true", help="no progress bar")
    run.add_argument("--quiet", action="store_true", help="no progress bar and no report: warnings and errors only")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}; expected an integer, zero or above")
    return int(text)


def setting(text: str) -> tuple[str, Any]:
    """``name=value`` with the value as a Python literal, else as the string that it is.

    Example:
        >>> setting("num_samples=500"), setting("mass_matrix=dense")
        (('num_samples', 500), ('mass_matrix', 'dense'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier() or not value.strip():
        raise argparse.ArgumentTypeError(f"found {text!r}; expected NAME=VALUE, such as num_samples=500")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()
