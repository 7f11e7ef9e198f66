"""Assembly to machine code in memory."""

from __future__ import annotations

import functools
import threading
from typing import Any

import llvmlite.binding as llvm

from phlogiston.engine.native.ir import NotNative

_OPTIMISATION = 1  # within two per cent of the speed of level 3, at a fifth less compile time
_LOCK = threading.Lock()  # LLVM's global state is set up once


@functools.lru_cache(maxsize=1)
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _target() -> Any:
    """A description of this processor; an engine takes possession of it, so that each needs its own."""
    _initialize()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=_OPTIMISATION
    )


def compile_text(text: str) -> Any:
    """An engine that holds the machine code of a module of assembly."""
    with _LOCK:
        machine = _target()
        try:
            module = llvm.parse_assembly(text)
        except RuntimeError as error:  # another version of LLVM, which knows other assembly
            raise NotNative(f"LLVM does not take its code: {str(error).strip()[:200]}") from error
        options = llvm.create_pipeline_tuning_options(speed_level=_OPTIMISATION)
        # Every lane is full already, and what should be unrolled is.
        options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return engine
