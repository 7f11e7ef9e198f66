"""Whether posteriors can be put side by side at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from phlogiston.errors import problem
from phlogiston.model.model import Model
from phlogiston.posterior.compatibility import different_data, mismatch
from phlogiston.posterior.posterior import Posterior


def named(verb: str, posteriors: Mapping[str, Posterior] | Sequence[Posterior]) -> dict[str, Posterior]:
    """The posteriors by name; those of a list are called by model or method, whichever tells them apart.

    Raises:
        TypeError: something is no posterior.
        ValueError: there are fewer than two.
    """
    items: dict[str, Any]
    if isinstance(posteriors, Mapping):
        items = dict(posteriors)
    else:
        given = list(posteriors)
        models = [post.model.name if isinstance(post, Posterior) and post.model else "" for post in given]
        methods = [post.method if isinstance(post, Posterior) else "" for post in given]
        labels = models if len(set(models)) == len(given) else methods
        if len(set(labels)) < len(given):
            labels = [f"{label} {i + 1}" for i, label in enumerate(labels)]
        items = dict(zip(labels, given, strict=True))
    for name, post in items.items():
        if not isinstance(post, Posterior):
            raise TypeError(problem(f"{verb}: {name!r}", found=type(post).__name__, expected="a posterior"))
    if len(items) < 2:
        raise ValueError(problem(verb, found=f"{len(items)} posteriors", expected="at least two"))
    return items


def model_of(verb: str, name: str, post: Posterior) -> Model:
    """The model of a posterior.

    Raises:
        ValueError: it has none.
    """
    if post.model is None:
        found = f"posterior {name!r} without its model"
        raise ValueError(problem(verb, found=found, expected="one", fix="ph.load(path, model=model)"))
    return post.model


def require_one_model(verb: str, posteriors: Mapping[str, Posterior]) -> None:
    """Refuse posteriors of different models, and a run beside itself.

    Models whose latents have other names, as a reparameterised one has, are not compared by their densities.

    Raises:
        ValueError: says which posterior, and how it differs.
    """
    names = list(posteriors)
    known = model_of(verb, names[0], posteriors[names[0]])
    latents = {site.name for site in known.structure.of("latent")}
    for i, name in enumerate(names[1:], 1):
        post = posteriors[name]
        same = latents == {site.name for site in model_of(verb, name, post).structure.of("latent")}
        if same and (difference := mismatch(known, post, name)):
            found, fix = f"{name!r} with {difference}", "ph.compare(posteriors), for models beside each other"
            raise ValueError(problem(verb, found=found, expected=f"posteriors of the model of {names[0]!r}", fix=fix))
        for other in names[:i]:
            if all(
                torch.equal(value, posteriors[other].draws.get(site, value[:0])) for site, value in post.draws.items()
            ):
                found = f"the draws of {other!r} again in {name!r}"
                raise ValueError(problem(verb, found=found, expected="runs with seeds of their own"))


def require_same_data(verb: str, posteriors: Mapping[str, Posterior]) -> None:
    """Refuse posteriors of different data, whose evidences and scores measure different things.

    Raises:
        ValueError: says which site differs, and how.
    """
    first, *others = posteriors
    known = model_of(verb, first, posteriors[first])
    for other in others:
        if difference := different_data(known, model_of(verb, other, posteriors[other]), first, other):
            fix = "observe the same data in both models"
            raise ValueError(problem(verb, found=difference, expected="posteriors of the same data", fix=fix))
