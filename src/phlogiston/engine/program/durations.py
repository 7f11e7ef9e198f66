"""Hidden Markov models without a duration: Pyro's take sequences of any length as data and draw none."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pyro.distributions.hmm import HiddenMarkovModel


def drawn_shape(fn: Any, law: Any, value: torch.Tensor) -> tuple[int, ...]:
    """The shape of a site's values, in which such a model has the length of the sequence that it is given.

    Args:
        fn: the distribution of the site.
        law: the same under masks, events and expansions.
        value: a value of the site.
    """
    shape = tuple(fn.batch_shape + fn.event_shape)
    if not isinstance(law, HiddenMarkovModel) or law.duration is not None or value.ndim != len(shape):
        return shape
    time = len(fn.batch_shape)
    return (*shape[:time], value.shape[time], *shape[time + 1 :])


def with_length_of(value: torch.Tensor, fn: Any) -> Any:
    """A distribution that can draw values of this length; any other than such a model is returned as it is."""
    if not isinstance(fn, HiddenMarkovModel) or fn.duration is not None:
        return fn
    timed: Any = copy.copy(fn)
    timed._duration = value.shape[value.ndim - fn.event_dim]
    timed._event_shape = torch.Size((timed._duration, *fn.event_shape[1:]))
    return timed
