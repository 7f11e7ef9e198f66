"""Run a program without leaving a trace of it in any global."""

from __future__ import annotations

import gc
import inspect
import logging
import os
import random
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

from phlogiston.errors import ProgramError, SettingError, problem

_LIBRARIES = (
    *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")},
    str(Path(__file__).parents[2]),
)
# Pyro's stack of handlers, its parameter store, torch's default dtype and generator and all validation flags belong to
# the process. One reentrant lock lets one thread at a time run a program or trace it; the evaluation of graphs and of
# machine code, which is where samplers spend their time, needs none of these and stays outside. There is a single lock,
# so that no two threads can wait for each other.
PROGRAM_LOCK = threading.RLock()
os.register_at_fork(
    before=PROGRAM_LOCK.acquire, after_in_parent=PROGRAM_LOCK.release, after_in_child=PROGRAM_LOCK.release
)


@contextmanager
def isolated(seed: int | None = None, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Give the block to one thread at a time, and put back every global that a Pyro program may change.

    These are the random generators, Pyro's parameter store, validation, the default dtype, the number of
    threads, NumPy's handling of errors, and whether gradients are computed.

    Args:
        seed: seeds torch's, NumPy's and Python's global generators inside the block; None leaves their
            streams where they were.
        dtype: the default dtype inside the block.
    """
    with ExitStack() as stack:
        stack.enter_context(PROGRAM_LOCK)
        store = pyro.get_param_store()
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(random.setstate, random.getstate())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(_set_threads, torch.get_num_threads())
        stack.enter_context(np.errstate())
        stack.enter_context(torch.set_grad_enabled(torch.is_grad_enabled()))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(store.scope(_copied(store.get_state())))
        stack.enter_context(pyro.validation_enabled(False))
        if seed is not None:
            pyro.set_rng_seed(seed % 2**32)
        if dtype is not None:
            torch.set_default_dtype(dtype)
        yield


def _set_threads(count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _copied(state: Any) -> Any:
    """The parameter store's state with tensors of its own, so that nothing inside can write into the user's."""
    if not state["params"]:
        return state
    params = {
        name: value.detach().clone().requires_grad_(value.requires_grad) for name, value in state["params"].items()
    }
    return {**state, "params": params}


@contextmanager
def gc_paused() -> Iterator[None]:
    """Without looking for garbage, which takes a fifth of the time where a hundred thousand objects are made to stay.

    For tracing, compiling and loading; memory that cycles hold is freed at the first collection after it.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def silence_loggers(*names: str) -> Iterator[None]:
    """Silence loggers of torch that would report as a fault what is handled here."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def is_users_file(path: str) -> bool:
    """Whether a file of Python code belongs neither to a library nor to Python nor to this package."""
    return not path.startswith((*_LIBRARIES, "<frozen"))


def name_of(program: Any) -> str:
    """The name of a program for messages: its own, or that of its class."""
    name: str = getattr(program, "__name__", type(program).__name__)
    return name


def signature_of(program: Callable[..., Any]) -> inspect.Signature:
    """The signature of a program; a builtin that has none is taken to accept anything."""
    try:
        return inspect.signature(program)
    except ValueError:
        return inspect.signature(lambda *args, **kwargs: None)


def seed_sequence(seed: int | np.random.SeedSequence | None) -> np.random.SeedSequence:
    """NumPy's form of a seed.

    Raises:
        SettingError: it is neither None nor an integer of at least zero.
    """
    if isinstance(seed, np.random.SeedSequence):
        return seed
    given: Any = seed
    if given is not None and (isinstance(given, bool) or not isinstance(given, Integral) or given < 0):
        raise SettingError(problem("seed", found=repr(given), expected="an integer, zero or above, or None"))
    return np.random.SeedSequence(None if given is None else int(given))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch's operations run on the calling thread alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spawn(seed: int | np.random.SeedSequence | None, count: int) -> list[np.random.SeedSequence]:
    """``count`` independent seeds from one (NumPy's ``SeedSequence.spawn``, without its hidden counter)."""
    root = seed_sequence(seed)
    return [np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, child)) for child in range(count)]


def as_int(seed: np.random.SeedSequence) -> int:
    """The seed as one 32-bit integer, for libraries that want that."""
    return int(seed.generate_state(1)[0])


def generator(seed: int | np.random.SeedSequence | None) -> np.random.Generator:
    """NumPy's fastest generator (SFC64), from a seed."""
    return np.random.Generator(np.random.SFC64(seed_sequence(seed)))


def program_error(program: Any, error: Exception) -> ProgramError:
    """The error, with the innermost line of the user's program at which it arose."""
    name = getattr(program, "__name__", type(program).__name__)
    code = getattr(inspect.unwrap(program), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    here = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    where = f" at {here[-1].filename}:{here[-1].lineno}: {here[-1].line}" if here else ""
    message = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return ProgramError(f"program {name!r} raised {type(error).__name__}{where}: {message}")
