"""Compile a batched graph with Inductor, and keep the machine code for later processes.

Everything that torch may move between versions is in this file: ``standalone_compile`` where it is to be
had, the public ``torch.compile`` where not. Data are inputs of the compiled code, not part of it, so the
code on disk serves the same program with other data of the same shapes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import fx

from phlogiston.engine.program.isolate import gc_paused, silence_loggers
from phlogiston.engine.trace.graph import constants_to_inputs

Compiled = Callable[..., Any]
_EXTENSION = ".inductor"
_LOGGER = "torch._inductor.standalone_compile"


class CompilerUnavailable(RuntimeError):
    """Inductor could not compile the graph; the graph itself still runs."""


# Shapes are those of the example at every call: asserting it again costs more than a small model's gradient. And the
# last few elements of a row go one by one: where an operation pads, Inductor's vectors read past the end of memory.
_OPTIONS = {
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
    "cpp.enable_loop_tail_vec": False,
}


def cache_folder() -> Path:
    """Where machine code is kept: ``$PHLOGISTON_CACHE``, else ``~/.cache/phlogiston``, or a folder of this process."""
    chosen = os.environ.get("PHLOGISTON_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return Path.home() / ".cache" / "phlogiston"
    except RuntimeError:  # this user has no home
        return Path(_own_folder().name)


@functools.lru_cache(maxsize=1)
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that only this user can read, gone with the process: code from a folder open to all is never run."""
    return tempfile.TemporaryDirectory(prefix="phlogiston-", ignore_cleanup_errors=True)


def _is_ours(path: Path) -> bool:
    """Whether nobody but this user and the administrator could have written a file of machine code."""
    if sys.platform == "win32":  # profiles of other users are closed there
        return True
    found = path.stat()
    return found.st_uid in (os.getuid(), 0) and not found.st_mode & stat.S_IWOTH


def key_of(module: fx.GraphModule, arguments: list[torch.Tensor]) -> str:
    """What machine code depends on: the graph, the inputs' layouts, torch, the processor and its threads."""
    layouts = [(tuple(a.shape), tuple(a.stride()), str(a.dtype), _place(a)) for a in arguments]
    machine = (torch.__version__, sys.version_info[:2], platform.machine(), torch.backends.cpu.get_cpu_capability())
    text = repr((module.graph.python_code("self").src, layouts, machine, torch.get_num_threads(), _OPTIONS))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _place(value: torch.Tensor) -> str:
    return f"{value.device} {torch.cuda.get_device_name(value.device)}" if value.is_cuda else str(value.device)


def compile_graph(module: fx.GraphModule, arguments: list[torch.Tensor]) -> Compiled:
    """Machine code for a graph, from disk or freshly compiled, as a function of the graph's own inputs.

    Raises:
        CompilerUnavailable: Inductor failed (no C++ compiler, a bug on this graph).
    """
    stripped, constants = constants_to_inputs(module)
    inputs = [*arguments, *constants]
    path = cache_folder() / (key_of(stripped, inputs) + _EXTENSION)
    try:
        code = _ready(stripped, inputs, path, probe=False)
    except Exception:  # a C++ compiler older than the processor's instructions
        try:
            code = _ready(stripped, inputs, path, probe=True)
        except Exception as error:  # Inductor raises whatever its passes raise
            raise CompilerUnavailable(f"{type(error).__name__}: {str(error).strip()[:200]}") from error
    return lambda *tensors: code(*tensors, *constants)


def _ready(module: fx.GraphModule, inputs: list[torch.Tensor], path: Path, *, probe: bool) -> Compiled:
    """Loaded or compiled, and called once.

    Inductor finds out in other processes which of the processor's vector instructions the C++ compiler knows, seconds
    for each that starts; what torch itself runs on is tried first (``probe`` False).
    """
    with warnings.catch_warnings(), torch.no_grad(), gc_paused(), silence_loggers(_LOGGER), _vectors(probe):
        warnings.simplefilter("ignore")
        code = _load(path) or _compile(module, inputs, path)
        code(*inputs)
    return code


@contextmanager
def _vectors(probe: bool) -> Iterator[None]:
    from torch._inductor import cpu_vec_isa

    name = {"AVX512": "VecAVX512", "AVX2": "VecAVX2"}.get(torch.backends.cpu.get_cpu_capability(), "")
    kind, before = getattr(cpu_vec_isa, name, None), getattr(cpu_vec_isa, "valid_vec_isa_list", None)
    if probe or kind is None or before is None:
        yield
        return
    chosen = [type(name, (kind,), {"__bool__": lambda self: True})()]  # asking it whether it is there would probe it
    cpu_vec_isa.valid_vec_isa_list = lambda: chosen  # type: ignore[assignment]
    try:
        yield
    finally:
        cpu_vec_isa.valid_vec_isa_list = before


def _compile(module: fx.GraphModule, inputs: list[torch.Tensor], path: Path) -> Compiled:
    standalone = getattr(__import__("torch._inductor", fromlist=["_"]), "standalone_compile", None)
    if standalone is None:
        return torch.compile(module, fullgraph=True, dynamic=False)
    artifact = standalone(module, inputs, dynamic_shapes="from_example_inputs", options={"config_patches": _OPTIONS})
    _save(artifact, path)
    compiled: Compiled = artifact
    return compiled


def _save(artifact: Any, path: Path) -> None:
    """Keep machine code; a folder that cannot be written costs only the next compilation."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / "code"
            artifact.save(path=str(fresh), format="binary")
            fresh.replace(path)
    except (OSError, RuntimeError):
        return


def _load(path: Path) -> Compiled | None:
    try:
        if not path.exists() or not _is_ours(path):
            return None
    except OSError:
        return None
    try:
        from torch._inductor.standalone_compile import CompiledArtifact

        loaded: Compiled = CompiledArtifact.load(path=str(path), format="binary")
        return loaded
    except Exception:  # written by another build of torch, or cut short: compile again
        path.unlink(missing_ok=True)
        return None
