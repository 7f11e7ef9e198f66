"""Data of a plate's elements as one tensor ``[N, ...]``, laid out for an encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from phlogiston.errors import SettingError, problem
from phlogiston.training.amortised.encoders import ConvEncoder, DeepSet, Perceptron, Standardise
from phlogiston.training.amortised.latents import DataSite

Kind = Literal["raw", "mlp", "conv", "set"]
_SMALLEST_IMAGE = 6


def kind_of(data: Sequence[DataSite], wanted: str, *, own: bool) -> Kind:
    """The network that suits the data, or the one that was asked for where it can read them.

    Raises:
        SettingError: it cannot.
    """
    nested = any(datum.inner for datum in data)
    if own:
        return "set" if nested else "raw" if _is_single(data) else "mlp"
    if wanted == "auto":
        large = _is_image(data) and min(data[0].value.shape[-2:]) >= _SMALLEST_IMAGE
        return "set" if nested else "conv" if large else "mlp"
    if wanted == "conv" and not _is_image(data):
        raise SettingError(_no_image(data))
    if wanted == "set" and not nested:
        raise SettingError(
            problem("encoder='set'", found="no plate within the plate", expected="a set of elements in each datum")
        )
    return "mlp" if wanted == "mlp" else "conv" if wanted == "conv" else "set"


def _is_single(data: Sequence[DataSite]) -> bool:
    return len(data) == 1 and data[0].mask is None


def _is_image(data: Sequence[DataSite]) -> bool:
    """Whether each datum is one array of two or three dimensions that belong together."""
    first = data[0]
    return _is_single(data) and not first.inner and first.value.dim() in (3, 4) and first.event_dim > 1


def _no_image(data: Sequence[DataSite]) -> str:
    first = data[0]
    return problem(
        "encoder='conv'",
        found=f"data of shape {tuple(first.value.shape[1:])}" if len(data) == 1 else f"{len(data)} kinds of data",
        expected="one image a datum, (height, width) or (channels, height, width)",
        fix=f'x.reshape({len(first.value)}, height, width), or encoder="mlp"',
    )


def features_of(data: Sequence[DataSite], kind: Kind) -> torch.Tensor:
    """``[N, ...]``: the data as they are, or in one row (mlp), or ``[N, M, F + 1]`` with presence last (set)."""
    if kind in ("raw", "conv"):
        return data[0].value
    if kind == "mlp":
        rows = [_row(datum.value) for datum in data]
        rows += [_row(datum.mask.float()) for datum in data if datum.mask is not None]
        return torch.cat(rows, -1)
    return _sets(data)


def _row(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(len(value), -1)


def _sets(data: Sequence[DataSite]) -> torch.Tensor:
    """Elements of every inner plate in one dimension; what a datum has once is repeated for each."""
    size = max(math.prod(plate.size for plate in datum.inner) for datum in data)
    columns, presence = [], torch.ones(len(data[0].value), size, 1)
    for datum in data:
        count = math.prod(plate.size for plate in datum.inner)
        if count == size and datum.inner:
            columns.append(datum.value.reshape(len(datum.value), size, -1))
            if datum.mask is not None:
                presence = presence * datum.mask.float().reshape(len(datum.value), size, 1)
        else:
            columns.append(_row(datum.value).unsqueeze(1).expand(-1, size, -1))
    return torch.cat([torch.cat(columns, -1) * presence, presence], -1)


@dataclass(frozen=True)
class Body:
    """A network that reads features, and how many numbers it gives for each datum."""

    module: nn.Module
    width: int


def body_for(
    data: Sequence[DataSite], kind: Kind, features: torch.Tensor, hidden: Sequence[int], channels: int
) -> Body:
    """A network of the kind for features like these, which first standardises them unless they are all discrete."""
    discrete = all(datum.discrete for datum in data)
    made: Perceptron | ConvEncoder | DeepSet
    if kind == "conv":
        made = ConvEncoder(features.shape[1:], channels, hidden)
    elif kind == "set":
        made = DeepSet(features.shape[-1] - 1, float(features[..., -1].sum(1).mean()), hidden)
    else:
        made = Perceptron(features[0].numel(), hidden)
    if discrete:
        return Body(made, made.width)
    return Body(nn.Sequential(_standardise(features, kind), made), made.width)


def _standardise(features: torch.Tensor, kind: Kind) -> Standardise:
    if kind != "set":
        return Standardise(features.mean(0), features.std(0, correction=0))
    present = features[..., -1] > 0
    elements = features[present]
    loc, scale = elements.mean(0), elements.std(0, correction=0)
    loc[-1], scale[-1] = 0.0, 1.0  # presence stays what it is
    return Standardise(loc, scale)
