"""The command line: ``phlogiston run``, ``recommend``, ``check`` and ``methods``.

Nothing here imports torch before a command needs it, so that help and mistakes in the arguments answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from phlogiston.cli.arguments import FINE, INTERRUPTED, USAGE, WRONG, parser
from phlogiston.errors import DataFileError, ModelError, SettingError, UnknownName


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        the exit code: 0 fine, 1 wrong model, data or setting, 2 wrong usage, 3 not to be believed (``--strict``),
        130 Ctrl-C.
    """
    try:
        arguments = parser().parse_args(argv)
        arguments.argv = list(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:  # argparse has printed its help, or what is wrong
        return int(stop.code or FINE)
    try:
        code = _command(arguments)
        sys.stdout.flush()
        return code
    except UnknownName as error:
        return _failed(error, USAGE, arguments)
    except (ModelError, DataFileError, SettingError) as error:
        return _failed(error, WRONG, arguments)
    except KeyboardInterrupt:
        print("phlogiston: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has gone: Python's own flush at exit must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return WRONG


def _command(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "run":
            from phlogiston.cli.running import run

            return run(arguments)
        case "check":
            from phlogiston.cli.running import check

            return check(arguments)
        case "recommend":
            from phlogiston.cli.running import recommend

            return recommend(arguments)
        case _:
            from phlogiston.cli.listing import methods

            return methods(markdown=arguments.markdown)


def _failed(error: Exception, code: int, arguments: argparse.Namespace) -> int:
    """What the user got wrong, in one line."""
    sys.stdout.flush()
    if arguments.traceback:
        traceback.print_exception(error)
    print(f"phlogiston: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
