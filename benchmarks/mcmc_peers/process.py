"""One side on one target in its own process, within a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from mcmc_peers.measure import Result
from mcmc_peers.peers import PEERS


def run(target: str, peer: str, limit: float) -> Result:
    """A side's result on a target.

    A side that keeps compiled code runs twice in caches of this call's own: first empty, which gives only the time of
    the cold run, then as the first process left them.
    """
    if not PEERS[peer].caches:
        return _process(target, peer, limit, {}, once=False)
    with tempfile.TemporaryDirectory(prefix="mcmc-caches-") as folder:
        first = _process(target, peer, limit, _caches(Path(folder)), once=True)
        if first.failed and not first.note.startswith("over "):
            return first
        return replace(_process(target, peer, limit, _caches(Path(folder)), once=False), cold_empty_s=first.cold_s)


def _caches(folder: Path) -> dict[str, str]:
    """Where this library, Inductor, numba and PyTensor keep code."""
    return {
        "PHLOGISTON_CACHE": str(folder / "phlogiston"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "NUMBA_CACHE_DIR": str(folder / "numba"),
        "PYTENSOR_FLAGS": f"base_compiledir={folder / 'pytensor'}",
    }


def _process(target: str, peer: str, limit: float, environment: dict[str, str], *, once: bool) -> Result:
    command = [sys.executable, "-m", "mcmc_peers", target, peer, "--limit", str(limit), *(["--once"] if once else [])]
    child = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return Result(failed=True, note=f"over {limit:.0f} s")
    finally:
        _end(child)
    if not out.strip():
        last = (errors.strip().splitlines() or ["nothing on standard error"])[-1]
        return Result(failed=True, note=f"exit code {child.returncode}: {last[:120]}")
    return Result(**json.loads(out.strip().splitlines()[-1]))


def _end(child: subprocess.Popen[str]) -> None:
    """End the process with all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        child.communicate()
