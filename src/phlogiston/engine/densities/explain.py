"""What to say of a point or a draw whose density is not finite."""

from __future__ import annotations

import torch

from phlogiston.engine.program.interpreter import Interpreter
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.reading import Values
from phlogiston.errors import problem


def explain_no_start(interpreter: Interpreter, dtype: torch.dtype, u: torch.Tensor) -> str:
    """Which site has no finite log probability, or gradient, at ``u [D]``, and the value that it has there."""
    with isolated(seed=0, dtype=dtype):
        name, value, found = interpreter.without_a_start(u)
    shown = f" at {str(value.detach().tolist())[:120]}" if value.numel() else ""
    if interpreter.structure[name].role == "latent":
        fix = f'a prior or an initial={{"{name}": ...}} within the supports of all sites'
    else:
        fix = "data that are possible under the model, or an initial={latent: ...} at which they are"
    return problem(
        f"starting point, site {name!r}",
        found=f"{found}{shown}",
        expected="a finite log density and gradient",
        fix=fix,
    )


def explain_values(interpreter: Interpreter, dtype: torch.dtype, values: Values) -> str:
    """The values of one draw, and the first site whose log probability is not finite there."""
    shown = ", ".join(f"{name}={value.tolist()}" for name, value in values.items())
    shown = shown if len(shown) <= 200 else shown[:200] + " ..."
    with isolated(seed=0, dtype=dtype), torch.no_grad():
        site = interpreter.first_not_finite(values)
    return f"{shown}, where site {site[0]!r} has log probability {site[1]}" if site else shown
