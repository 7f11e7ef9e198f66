"""Networks whose output is more than a function of their parameters and input: what training does about them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from phlogiston.engine.program.isolate import isolated
from phlogiston.engine.program.sites import run
from phlogiston.errors import ProgramError, UnsupportedModel, problem
from phlogiston.model.model import Model


def refuse_batch_statistics(model: Model, *networks: nn.Module | None) -> None:
    """Refuse networks that normalise a datum by the other data of its batch, and count what they have seen.

    Steps here are pure functions of parameters and data. The running mean and variance of BatchNorm are neither: a
    step that is traced would either freeze them or write the numbers of a trace into the network of the user, and a
    trained network in evaluation would be another function than the one that was trained. In ``eval()`` they are
    constants, which is allowed.

    Raises:
        UnsupportedModel: the program or one of the networks has such a layer in training mode.
    """
    found = [layer for network in networks if network is not None for layer in network.modules() if _by_batch(layer)]
    name = type(found[0]).__name__ if found else _first_called(model)
    if name:
        raise UnsupportedModel(
            problem(
                f"training of {model.name!r}",
                found=f"a {name} in training mode, whose output for a datum depends on the other data of its batch",
                expected="a network that is a function of its parameters and one datum at a time",
                fix="nn.LayerNorm or nn.GroupNorm in its place, or network.eval(), which keeps its statistics fixed",
            )
        )


def _by_batch(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.training


def _first_called(model: Model) -> str:
    """The name of the first such layer that the program calls, wherever it holds it; empty if there is none."""

    names: list[str] = []

    def stop(layer: nn.Module, inputs: Any) -> None:
        if _by_batch(layer):
            names.append(type(layer).__name__)
            raise RuntimeError(names[0])  # before the layer counts what it is given

    with isolated(seed=0), torch.no_grad(), _before_every_layer(stop):
        try:
            run(model)
        except ProgramError:
            if not names:
                raise
    return names[0] if names else ""


@contextmanager
def _before_every_layer(hook: Any) -> Iterator[None]:
    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def in_evaluation(model: Model) -> Model:
    """The model with copies in ``eval()`` of those networks among its inputs that have layers such as Dropout.

    A trained program is evaluated, by one seed, at many draws at once, where a layer that draws numbers of its own
    has no meaning.
    """
    random = {
        name: copy.deepcopy(value).eval()
        for name, value in model.inputs.items()
        if isinstance(value, nn.Module) and any(_draws(layer) for layer in value.modules())
    }
    return model.with_inputs(**random) if random else model


def _draws(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.dropout._DropoutNd) and layer.training
