"""Which sites feed which: the arrows of the model's graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer.inspect import get_model_relations

from phlogiston.engine.program import handlers
from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.sites import Bound, cast_inputs
from phlogiston.engine.program.torch_fixes import Adapt


def parents_of(bound: Bound, dtype: torch.dtype = torch.float64) -> Mapping[str, tuple[str, ...]] | None:
    """The sites and parameters that each site's distribution (or computed value) depends on, without its own name.

    Provenance is tracked through the program's operations (Pyro's ``get_model_relations``). None where it cannot be,
    as where the program leaves torch.
    """

    def program() -> None:
        data = {name: value for name, value in cast_inputs(bound.observed).items() if name not in bound.missing}
        overrides = handlers.ParameterOverrides()
        held = handlers.Parameters(cast_inputs(bound.parameters), overrides)
        with handlers.Precision(), held, poutine.condition(data=data), handlers.WholePlates(), Adapt(overrides):
            bound.program(*cast_inputs(bound.args), **cast_inputs(bound.kwargs))

    with isolated(seed=0, dtype=dtype), torch.no_grad():
        try:
            found: Mapping[str, Any] = get_model_relations(program, include_deterministic=True)
        except Exception:  # the program ran before, as it is; what fails here is tracking it
            return None
    parameters: Mapping[str, Any] = found["sample_param"]
    return {
        name: tuple(dict.fromkeys([*(p for p in parents if p != name), *parameters.get(name, ())]))
        for name, parents in found["sample_sample"].items()
    }
