"""Compile the machine code of the trees, which serves every model, in another process while this one traces a model.

This happens once per machine, at the first run; it takes four seconds, about as long as compiling the model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from phlogiston.engine.native.call import NativeCall
from phlogiston.inference.mcmc import native_trees, trees
from phlogiston.inference.rng import fill_normals

Wait = Callable[[], object]


def begin(dtype: str) -> Wait | None:
    """Begin to compile for chains of ``dtype``; return a function that waits for the end, or None if not needed."""
    last = native_trees.advance_until if dtype == "float64" else trees.advance  # compiled after all the others
    cache = getattr(last, "_cache", None)  # numba's own; its name for the folder is not documented
    folder = getattr(cache, "cache_path", None)
    if folder is None or any(Path(folder).glob(f"*.{last.__name__}-*.nbi")) or (os.cpu_count() or 1) < 2:
        return None
    thread = threading.Thread(target=_in_a_process, args=(dtype,), daemon=True)
    thread.start()
    return thread.join


def _in_a_process(dtype: str) -> None:
    try:
        subprocess.run(
            [sys.executable, "-c", f"from {__name__} import compile_trees; compile_trees({dtype!r})"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=False,
        )
    except OSError:  # no process may be started here: the first transition compiles
        return


def compile_trees(dtype: str) -> None:
    """Compile what a block of the No-U-Turn sampler calls, or load it from disk."""
    states = trees.new_trees(np.zeros((0, 4), np.uint64), 1, 1, np.dtype(dtype))
    value, grad = np.zeros(0, dtype), np.zeros((1, 0), dtype)
    fill_normals(states.words, grad.T.copy())
    trees.start_transitions(states, value, grad, 1.0)
    draws = np.zeros((0, 1, 1), dtype)
    rows = trees.Rows(draws, np.zeros((0, 1, len(trees.STATS))), draws)
    trees.advance(states, value, grad, 1.0, 1, rows)
    if dtype == "float64":
        nothing = np.zeros(0)
        call = NativeCall(0, np.zeros((1, 0)), value[None], grad, nothing, nothing, np.zeros(0, np.int64))
        native_trees.advance_until(states, call, 1.0, 1, rows, (0, False, 0))
