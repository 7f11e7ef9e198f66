"""What a model becomes: its program as the engine sees it, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from phlogiston.engine.densities.native import NativeReadings
from phlogiston.engine.native.ir import Item, Loop, show
from phlogiston.engine.program.interpreter import Interpreter
from phlogiston.engine.program.sites import discover
from phlogiston.model.model import Model

_CHAINS = 4


@dataclass(frozen=True)
class Explanation:
    """The density of a model as machine code, or why it has none.

    Args:
        reason: why there is no native code; "" where there is.
        form: the density as text, loops rolled; one line for each operation.
        operations: of the density, and of the density with its gradient.
        loops: the number of steps of each loop, the outermost first.
        seconds: that each phase took, by name.
        bytes_of_memory: that the code works in, for four chains at a time.
    """

    reason: str
    form: str = ""
    operations: tuple[int, int] = (0, 0)
    loops: tuple[int, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    bytes_of_memory: int = 0

    def __str__(self) -> str:
        if self.reason:
            return f"no native code: {self.reason}"
        phases = ", ".join(f"{name} {1000.0 * spent:.0f} ms" for name, spent in self.seconds)
        loops = ", ".join(f"{steps} steps" for steps in self.loops) or "none"
        return (
            f"{self.form}\n\n"
            f"operations: {self.operations[0]}, with the gradient {self.operations[1]}; loops: {loops}\n"
            f"phases: {phases}; memory for {_CHAINS} chains: {self.bytes_of_memory:,} bytes"
        )


def explain(model: Model) -> Explanation:
    """Show what native code makes of a model's density.

    The density is that of the continuous latents on the unconstrained scale, discrete ones summed out. It is recorded,
    its loops are rolled, it is differentiated and compiled as for a run of NUTS with four chains.

    Args:
        model: a program with its data.

    Returns:
        The density as text with what each phase took; or the reason for which another tier must serve.

    Raises:
        ModelError: the model cannot be run at all.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     with pyro.plate("row", 50):
        ...         pyro.sample("y", dist.Normal(mu, 1.0))
        >>> explanation = ph.explain(ph.Model(program).observe(y=torch.zeros(50)))
        >>> explanation.reason, explanation.operations[0] < 20
        ('', True)
    """
    interpreter = Interpreter(model, discover(model, torch.float64))
    if not interpreter.dim:
        return Explanation("no continuous latent, so no density in unconstrained coordinates")
    readings = NativeReadings(interpreter, wanted=True)
    began = time.process_time()
    recording = readings.recording()
    recorded = time.process_time() - began
    if recording.program is None:
        return Explanation(recording.reason)
    density = readings.chains(((interpreter.dim,),), _CHAINS)
    if density is None:
        return Explanation(readings.recording().reason)
    return Explanation(
        "",
        show(recording.program),
        density.operations,
        tuple(_trips(recording.program.items)),
        (("record and roll", recorded), *density.seconds.items()),
        8 * density.machine.code.width * density.machine.code.work,
    )


def _trips(items: Sequence[Item]) -> Iterator[int]:
    for item in items:
        if isinstance(item, Loop):
            yield item.trips
            yield from _trips(item.body)
