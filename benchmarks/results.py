"""What benchmarks share: results kept seed by seed, and sections of RESULTS.md."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"


def load_models() -> None:
    """Let files of models/ be imported by name."""
    sys.path.insert(0, str(ROOT / "models"))


class Kept:
    """Results of one run, seed by seed in a file under runs/, so that a run that was cut off goes on.

    Args:
        run: the benchmark's name.
        name: of what is run; any text.
    """

    def __init__(self, run: str, name: str) -> None:
        self._path = ROOT / "runs" / run / ("".join(c if c.isalnum() else "_" for c in name) + ".json")

    def rows(self, count: int, compute: Callable[[int], list[Any]]) -> list[list[Any]]:
        """What ``compute`` gives for the first seeds, each with the processor's seconds as its last entry."""
        found: list[list[Any]] = json.loads(self._path.read_text()) if self._path.exists() else []
        for seed in range(len(found), count):
            began = time.process_time()
            found.append([*compute(seed), time.process_time() - began])
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(found))
        return found


def insert(mark: str, command: str, lines: list[str]) -> None:
    """Put lines into their section of RESULTS.md, which is added at its end where there is none."""
    begin, end = f"<!-- {mark}: written by {command} --update -->", f"<!-- end of {mark} -->"
    replace_block(RESULTS, begin, end, "\n".join(lines))


def replace_block(path: Path, begin: str, end: str, content: str) -> None:
    """Write between two markers; a file without them gets them at its end."""
    text = path.read_text() if path.is_file() else "# Results of the benchmarks\n"
    before, begun, rest = text.partition(begin)
    after = rest.partition(end)[2] if begun else "\n"
    path.write_text(f"{before if begun else before.rstrip() + chr(10) * 2}{begin}\n{content}\n{end}{after}")
