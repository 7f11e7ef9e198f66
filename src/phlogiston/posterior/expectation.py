"""The values of a function at every draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from phlogiston.posterior.arviz_groups import unknown_site


def values_of(
    f: str | Callable[[dict[str, torch.Tensor]], torch.Tensor], draws: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """A site, or a function of one draw at all of them, ``[chain, draw, ...]``."""
    if isinstance(f, str):
        return draws[f]
    chains, rows = next(iter(draws.values())).shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in draws.items()}
    try:
        values = torch.vmap(lambda draw: torch.as_tensor(f(_Draw(draw))))(flat)
    except (RuntimeError, ValueError):  # f branches on a value or leaves torch: one draw at a time
        each = ({name: value[i] for name, value in flat.items()} for i in range(chains * rows))
        values = torch.stack([torch.as_tensor(f(_Draw(draw))) for draw in each])
    return values.reshape(chains, rows, *values.shape[1:])


class _Draw(dict[str, torch.Tensor]):
    """One draw, which knows what to answer to a misspelt site."""

    def __missing__(self, name: str) -> torch.Tensor:
        raise unknown_site("expect", name, self)
