"""Weighted draws that make sense: a weight that is no number stops the run, with the site that it came from."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from phlogiston.engine.densities.target import Target
from phlogiston.errors import ModelError, problem

Values = dict[str, torch.Tensor]


def checked(target: Target, chunks: Iterator[Values]) -> Iterator[Values]:
    """The chunks as they are, up to the first ``log_weight`` that is NaN or +inf; -inf is a legal weight.

    Raises:
        ModelError: there is such a weight; its draw and the site that it came from are in the message.
    """
    latents = [site.name for site in target.structure.of("latent")]
    for chunk in chunks:
        log_weight = chunk["log_weight"]
        bad = torch.isnan(log_weight) | torch.isposinf(log_weight)
        if bad.any():
            first = int(bad.nonzero()[0])
            draw = {name: chunk[name][first] for name in latents}
            raise ModelError(
                problem(
                    "weights",
                    found=f"{float(log_weight[first])} as a log weight, in {int(bad.sum())} of {bad.numel()} draws; "
                    f"the first of them is {target.explain(draw)}",
                    expected="numbers, or -inf for what cannot happen: a program that is defined at every draw",
                )
            )
        yield chunk
