"""``measured``: a generator under an observation, so that data can be inverted, completed and given a likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch.distributions import Distribution

from phlogiston.engine.program.noisy_output import measured as measuring
from phlogiston.engine.program.plates import data_plate
from phlogiston.engine.program.sites import Site
from phlogiston.errors import ModelError, SettingError, UnknownName, UnsupportedModel, did_you_mean, problem
from phlogiston.model.inputs import as_input
from phlogiston.model.model import Model
from phlogiston.model.resize import axis, depth, resized

Noise = float | Distribution | Callable[[torch.Tensor], Any]


def measured(model: Model, /, *, noise: Noise, **data: Any) -> Model:
    r"""A program's computed output, measured with noise: a generator becomes the prior of what was measured.

    A generator has no density: its output :math:`x = G(z)` fills a surface. With an observation site
    :math:`y \sim \mathrm{Normal}(G(z), \sigma)` around it there is one, and every method applies: NUTS and SVI invert
    an image, with uncertainty; entries that were not seen are completed; ``ph.AIS`` gives :math:`\log p(y)`.

    The output keeps its name and stays in the posterior, without noise; the measurement is a new site, ``<name>_seen``.

    Args:
        model: a program with a ``pyro.deterministic`` output, such as ``fitted.model``.
        noise: standard deviation :math:`\sigma` of the measurement; or its prior, and it is inferred, as
            ``<name>_noise``; or a function from the output to a distribution of each entry's measurement.
        **data: by site. One of them is the output: one row, or several; NaN marks an entry that was not seen. Others,
            such as a class, are observed as they are, one for each row.

    Returns:
        the model with as many rows as the data have. For that, the size of the plate has to be an input of the program.

    Raises:
        UnknownName: there is no such site.
        ModelError: the data have another shape than the output, or nothing in them was seen.
        UnsupportedModel: no output was named, or the size of the plate is no input.
        SettingError: a standard deviation that is not above zero.

    References:
        Bora, Jalal, Price and Dimakis (2017), Compressed sensing using generative models,
        https://arxiv.org/abs/1703.03208; Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of
        decoder-based generative models, https://arxiv.org/abs/1611.04273

    Example:
        >>> def generator(n):
        ...     with pyro.plate("rows", n):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.deterministic("x", torch.stack([z, 2.0 * z], -1), event_dim=1)
        >>> model = ph.measured(ph.Model(generator, 50), x=[1.0, float("nan")], noise=0.5)
        >>> post = ph.infer(model, "nuts", seed=0, progress=False)
        >>> mean = post.expect("x")  # the second entry was not seen: twice the first
        >>> bool(abs(mean.value[0, 1] - 1.6) < 4 * mean.se[0, 1])
        True
    """
    noise, site = _noise(noise), _output(model, data)
    rows = _rows(site, data.pop(site.name))
    seen = ~torch.isnan(rows)
    if not bool(seen.any()):
        found = "NaN only" if rows.numel() else "no rows"
        raise ModelError(problem(f"site {site.name!r}", found=found, expected="some entries that were seen"))
    program = measuring(
        model.program,
        site.name,
        event_dim=rows.ndim - depth(site),
        seen=None if bool(seen.all()) else seen,
        noise=noise,
    )
    values = {f"{site.name}_seen": torch.where(seen, rows, torch.zeros_like(rows)), **data}
    plate, bare = data_plate([site]), model.unobserved()
    sized = bare if plate is None else resized(bare, plate, rows.shape[axis(site, plate)])
    return sized.with_program(program).with_parameters(model.parameters).observe(**values)


def _noise(given: Any) -> Any:
    """Checked: a standard deviation, its prior, or a function of the output."""
    if isinstance(given, Distribution):
        support: Any = given.support
        if not bool(torch.all(support.check(torch.tensor(-1.0)))):
            return given
        found, fix = f"a {type(given).__name__} prior, which draws numbers below zero", "noise=dist.HalfNormal(1.0)"
        raise SettingError(problem("noise", found=found, expected="a prior of a standard deviation", fix=fix))
    if callable(given):
        return given
    known = type(given) is not bool and isinstance(given, (Real, np.ndarray, torch.Tensor))
    value = torch.as_tensor(given if known else math.nan)
    if value.is_complex() or not bool(((value > 0.0) & (value < math.inf)).all()):
        raise SettingError(problem("noise", found=repr(given), expected="a standard deviation above zero"))
    return float(value) if value.ndim == 0 else value.to(torch.get_default_dtype())


def _rows(site: Site, given: Any) -> torch.Tensor:
    """The data with a dimension of rows where the output has one."""
    try:
        value = torch.as_tensor(as_input(np.asarray(given) if isinstance(given, (list, tuple, float, int)) else given))
    except (TypeError, ValueError, RuntimeError) as error:  # of NumPy or torch, about what is no number
        found = f"{type(given).__name__} ({str(error).partition('. ')[0]})"
        raise ModelError(problem(f"site {site.name!r}", found=found, expected="an array of numbers")) from error
    value = value.to(torch.get_default_dtype()) if not value.is_floating_point() else value
    plate = data_plate([site])
    expected: tuple[Any, ...] = site.shape
    if plate is not None:
        along = axis(site, plate)
        row = (*site.shape[:along], *site.shape[along + 1 :])
        if tuple(value.shape) == row:
            return value.unsqueeze(along)
        expected = (*site.shape[:along], "rows", *site.shape[along + 1 :])
    fits = value.ndim == len(expected) and all(e in ("rows", n) for e, n in zip(expected, value.shape, strict=True))
    if not fits:
        shown = str(expected).replace("'", "") + (f" or {row}" if plate is not None else "")
        raise ModelError(problem(f"site {site.name!r}", found=f"data of shape {tuple(value.shape)}", expected=shown))
    return value


def _output(model: Any, data: dict[str, Any]) -> Site:
    """The output among the data."""
    if not isinstance(model, Model):
        fix = "fitted.measured(...), or ph.measured(fitted.model, ...)"
        raise TypeError(problem("measured", found=type(model).__name__, expected="a ph.Model", fix=fix))
    sites = {name: site for name, site in model.sites.items() if site.role != "parameter"}
    for name in data:
        if name not in sites:
            raise UnknownName(f"measured: program {model.name!r} has no site {name!r}; {did_you_mean(name, sites)}")
    outputs = [name for name in data if sites[name].role == "deterministic"]
    if len(outputs) != 1:
        known = [site.name for site in model.structure.of("deterministic")]
        raise UnsupportedModel(
            problem(
                f"measured: program {model.name!r}",
                found=f"{len(outputs)} computed outputs among the data ({', '.join(data) or 'none'})",
                expected=f"one of {', '.join(known)}" if known else 'a pyro.deterministic("x", ...) in the program',
                fix="model.observe(...)" if data and not outputs else "",
            )
        )
    return sites[outputs[0]]
