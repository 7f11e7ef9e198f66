"""The effect handlers that interpret a Pyro program: observe, substitute, un-observe, unconstrain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch.distributions import Bernoulli, Binomial, Categorical, biject_to, constraints
from torch.distributions.constraints import MixtureSameFamilyConstraint

from phlogiston.engine.program import durations
from phlogiston.engine.program.missing import MISSING, Missing, missing_of
from phlogiston.engine.program.supports import Image, declared_support
from phlogiston.errors import UnsupportedModel, problem

Message = dict[str, Any]
SCALE = "_phlogiston_scale"  # of a site as the program gives it, masked entries included
_OVERRIDES = "_phlogiston_overrides"


def impossible(fn: Any, value: torch.Tensor, mask: torch.Tensor) -> int:
    """How many values have probability zero, of those that torch gives a tiny one, as it keeps away from 0 and 1."""
    law = base(fn)
    probs = law.__dict__.get("probs")  # as they were given; logits are never quite certain
    if probs is None or not isinstance(law, (Bernoulli, Binomial, Categorical)):
        return 0
    try:
        if isinstance(law, Categorical):
            zero = probs.expand(*value.shape, -1).gather(-1, value.long().unsqueeze(-1)).squeeze(-1) == 0.0
        else:
            most = law.total_count if isinstance(law, Binomial) else 1.0
            zero = ((probs == 0.0) & (value > 0.0)) | ((probs == 1.0) & (value < most))
        return int((zero & mask).sum())
    except (RuntimeError, IndexError):  # a value of another shape, or outside the support: said elsewhere
        return 0


def bijection_to(support: Any, name: str) -> Any:
    """The map from the real line onto a support; a mixture's is that of its components, where they share one.

    Raises:
        UnsupportedModel: there is none.
    """
    shared = support_of_components(support)
    try:
        return biject_to(shared)
    except NotImplementedError as error:
        expected = "one that the real line maps onto (for a mixture: the same for all components)"
        raise UnsupportedModel(problem(f"site {name!r}", found=f"the support {support}", expected=expected)) from error


def support_of_components(support: Any) -> Any:
    """What all components of a mixture have for a support; any other support as it is."""
    if not isinstance(support, MixtureSameFamilyConstraint):
        return support
    base = support.base_constraint
    bounds = [value for value in vars(elementwise(base)).values() if isinstance(value, torch.Tensor)]
    return support if any(bound.ndim for bound in bounds) or isinstance(elementwise(base), Image) else base


def elementwise(support: Any) -> Any:
    """The support of one number of an event, such as the real line for a vector of reals."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def is_plate_index(msg: Message) -> bool:
    """The pseudo-site by which a plate announces its indices."""
    return type(msg["fn"]).__name__ == "_Subsample"


def is_deterministic(msg: Message) -> bool:
    """A ``pyro.deterministic`` statement."""
    return bool(msg["infer"].get("_deterministic"))


def is_factor(msg: Message) -> bool:
    """A ``pyro.factor`` statement."""
    return isinstance(base(msg["fn"]), Unit)


def is_data(msg: Message) -> bool:
    """A sample statement that draws or observes something."""
    return not (is_plate_index(msg) or is_deterministic(msg) or is_factor(msg))


def is_discrete(fn: Any) -> bool:
    """Whether a distribution's values are countable."""
    return bool(getattr(support_of_components(declared_support(fn)), "is_discrete", False))


def is_point_mass(msg: Message) -> bool:
    """A latent ``Delta``: a value, not a random variable."""
    return isinstance(base(msg["fn"]), Delta)


def base(fn: Any) -> Any:
    """The distribution under masks, events and expansions."""
    while hasattr(fn, "base_dist") and type(fn).__name__ in (
        "MaskedDistribution",
        "Independent",
        "ExpandedDistribution",
        "GuardedDistribution",
    ):
        fn = fn.base_dist
    return fn


class Observe(Messenger):
    """Condition sites on values, by name; a value given here overrides the program's own ``obs=``.

    A site of which entries are missing stays latent: whatever value it is given or draws counts in these entries only.
    """

    def __init__(self, values: Mapping[str, torch.Tensor], missing: Mapping[str, Missing]) -> None:
        super().__init__()
        self._values, self._missing = values, missing

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] not in self._values or not is_data(msg):
            return
        if msg["name"] in self._missing:
            msg["value"], msg["is_observed"] = None, False
            msg["infer"] = {**msg["infer"], MISSING: self._missing[msg["name"]]}
        else:
            msg["value"], msg["is_observed"] = self._values[msg["name"]], True

    def _pyro_post_sample(self, msg: Message) -> None:
        if (missing := missing_of(msg)) is not None:
            msg["value"] = missing.filled(msg["value"])


class Unobserve(Messenger):
    """Let sites that the program or the user observes be drawn instead; all of them, or those named."""

    def __init__(self, names: frozenset[str] | None = None) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Message) -> None:
        wanted = self._names is None or msg["name"] in self._names
        if wanted and msg["is_observed"] and is_data(msg):
            msg["fn"] = durations.with_length_of(msg["value"], msg["fn"])
            msg["value"], msg["is_observed"] = None, False
        if wanted:
            msg["infer"].pop(MISSING, None)


class ProperMasks(Messenger):
    """Leave masked entries of discrete latents their prior, on the scale of one.

    ``poutine.mask`` takes an entry's probability out of the density. A continuous latent is improper there. A discrete
    latent is not to count once for each of its states: the states of a masked entry sum to one, as they do in Pyro's
    ``TraceEnum_ELBO`` (sequences of unequal length are written so). Entries that were observed stay masked.
    """

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] or not is_data(msg) or not is_discrete(msg["fn"]):
            return
        fn, inner = _without_mask(msg["fn"])
        if msg["mask"] is None and inner is None:
            return
        mask = torch.as_tensor(True if msg["mask"] is None else msg["mask"])
        mask = mask if inner is None else mask & torch.as_tensor(inner)
        missing = missing_of(msg)
        msg["fn"], msg["mask"] = fn, None if missing is None else mask | missing.events(fn.event_dim)
        if not (isinstance(msg["scale"], float) and msg["scale"] == 1.0):
            msg["infer"] = {**msg["infer"], SCALE: msg["scale"]}
            msg["scale"] = torch.where(mask, msg["scale"], 1.0)


def _without_mask(fn: Any) -> tuple[Any, Any]:
    """A distribution without the mask of ``.mask``, and that mask, for each element of its batch; None for no mask."""
    if type(fn).__name__ == "MaskedDistribution":
        law, inner = _without_mask(fn.base_dist)
        return law, fn._mask if inner is None else torch.as_tensor(fn._mask) & inner
    return fn, None


class WholePlates:
    """Let plates with a ``subsample_size`` take all their indices, or those that a handler gives, and draw none.

    A plate asks for its indices in its constructor, which insists on ``subsample_size`` of them: this context stands in
    for that one function while a program runs. ``sizes`` keeps what each plate asked for. Programs run under one lock,
    as Pyro's own stack of handlers is shared by all threads.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._own: Any = None

    def __enter__(self) -> WholePlates:
        self._own = SubsampleMessenger.__dict__["_subsample"]
        setattr(SubsampleMessenger, "_subsample", staticmethod(self._indices))  # noqa: B010
        return self

    def __exit__(self, *exception: Any) -> None:
        setattr(SubsampleMessenger, "_subsample", self._own)  # noqa: B010

    def _indices(self, name: str, size: Any = None, subsample_size: Any = None, *others: Any) -> Any:
        if subsample_size is not None and others[:1] in ((), (None,)):
            if subsample_size < size:
                self.sizes[name] = int(subsample_size)
            subsample_size = None
        return self._own.__func__(name, size, subsample_size, *others)


def with_sizes(trace: Trace) -> Trace:
    """Give plates without a size (``pyro.plate("data")``) that of the batches inside of them.

    A site that has one element for the whole plate is outside of it, as nothing repeats it.
    """
    messages: list[Any] = [msg for msg in trace.nodes.values() if msg["type"] == "sample"]
    frames = {frame for msg in messages for frame in msg["cond_indep_stack"] if frame.size == -1}
    for frame in frames:
        inside = [msg for msg in messages if frame in msg["cond_indep_stack"]]
        lengths = [_length(msg, frame.dim) for msg in inside]
        for msg, length in zip(inside, lengths, strict=True):
            sized = (frame._replace(size=length, full_size=length),) if length == max(lengths) else ()
            stack = msg["cond_indep_stack"]
            at = stack.index(frame)
            msg["cond_indep_stack"] = (*stack[:at], *sized, *stack[at + 1 :])
    return trace


def _length(msg: Message, dim: int) -> int:
    """Of a site's batch along a dimension."""
    fn, value = msg["fn"], msg["value"]
    shapes = [fn.batch_shape, value.shape[: value.ndim - fn.event_dim]]
    if is_deterministic(msg):
        shapes = [value.shape]
    return max(shape[dim] if len(shape) >= -dim else 1 for shape in shapes)


class Substitute(Messenger):
    """Give latent sites their values, by name; the sites stay latent."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self._values and not msg["is_observed"] and is_data(msg):
            msg["value"] = self._values[msg["name"]]


class Unconstrained(Messenger):
    """Map each continuous latent from the real line through the bijection of its support, as the program runs.

    The support may depend on latents that were mapped before it. ``log_jacobian`` collects
    log |d value / d u| of every site, element by element.
    """

    def __init__(self, unconstrained: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._unconstrained = unconstrained
        self.log_jacobian: dict[str, torch.Tensor] = {}

    def _pyro_sample(self, msg: Message) -> None:
        u = self._unconstrained.get(msg["name"])
        if u is None or msg["is_observed"]:
            return
        msg["value"], self.log_jacobian[msg["name"]] = constrained(msg, u)


def constrained(msg: Message, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A site's value from its unconstrained one, and log |d value / d u| of each element that has one."""
    missing = missing_of(msg)
    if missing is None:
        bijection = bijection_to(msg["fn"].support, msg["name"])
        value = bijection(u)
        if value.ndim - bijection.codomain.event_dim > u.ndim - bijection.domain.event_dim:
            raise UnsupportedModel(_moving_support(msg))
        return value, bijection.log_abs_det_jacobian(u, value)
    bijection, spread = _elementwise_bijection(msg), missing.spread(u)
    value = bijection(spread)
    return missing.filled(value), missing.picked(bijection.log_abs_det_jacobian(spread, value))


def _moving_support(msg: Message) -> str:
    return problem(
        f"site {msg['name']!r}",
        found="a support that depends on a discrete latent which is summed out",
        expected="one support for all its values",
        fix='ph.infer(model, "importance") or "gibbs", which draw the discrete latent',
    )


def unconstrained(msg: Message, value: torch.Tensor) -> torch.Tensor:
    """The inverse of ``constrained``."""
    missing = missing_of(msg)
    if missing is None:
        return torch.as_tensor(bijection_to(msg["fn"].support, msg["name"]).inv(value))
    return missing.picked(_elementwise_bijection(msg).inv(value))


def _elementwise_bijection(msg: Message) -> Any:
    return bijection_to(elementwise(support_of_components(msg["fn"].support)), msg["name"])


class Fallback(Messenger):
    """Give a value to latents that cannot be drawn (improper priors), so that a program can run once."""

    def _pyro_sample(self, msg: Message) -> None:
        if msg["value"] is not None or not is_improper(msg["fn"]):
            return
        bijection = bijection_to(msg["fn"].support, msg["name"])
        shape = bijection.inverse_shape(torch.Size(msg["fn"].batch_shape + msg["fn"].event_shape))
        msg["value"] = bijection(torch.zeros(shape))


class Precision(Messenger):
    """Give drawn values the precision of the run (the default dtype), whatever that of tensors a program captured."""

    def _pyro_post_sample(self, msg: Message) -> None:
        value = msg["value"]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            msg["value"] = value.to(torch.get_default_dtype())


def is_improper(fn: Any) -> bool:
    """Whether a distribution is an improper flat prior."""
    return type(base(fn)).__name__ == "ImproperUniform"


class ParameterOverrides:
    """Tensors that stand in for a module's parameters while a program runs.

    ``pyro.module`` announces a module's parameters one by one, but the module goes on computing with its own: every
    torch operation has to be told (``Adapt`` does) which tensor to take instead.
    """

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, own: torch.Tensor, instead: torch.Tensor) -> None:
        """Take ``instead`` for a module's own parameter, which is kept alive, as it is known by its identity."""
        self._by_id[id(own)] = (own, instead)

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def __call__(self, value: Any) -> Any:
        """A value with every known parameter in it exchanged."""
        if isinstance(value, torch.Tensor):
            return self._by_id.get(id(value), (value, value))[1]
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        if isinstance(value, list) or type(value) is tuple:
            return type(value)(self(item) for item in value)
        return value


class Parameters(Messenger):
    """Hold ``pyro.param`` statements, and the parameters of modules, at given (constrained) values."""

    def __init__(self, values: Mapping[str, torch.Tensor], overrides: ParameterOverrides) -> None:
        super().__init__()
        self._values, self._overrides = values, overrides

    def _pyro_param(self, msg: Message) -> None:
        if msg["name"] in self._values:
            msg["value"], msg["done"] = self._values[msg["name"]], True
            own = msg["args"][1] if len(msg["args"]) > 1 else None
            if msg["kwargs"].get("event_dim") is not None:  # a plate that takes rows of it asks where it came from
                msg["value"]._pyro_unconstrained_param = torch.zeros(0)
            if isinstance(own, torch.nn.Parameter):
                self._overrides.add(own, msg["value"])

    def _pyro_sample(self, msg: Message) -> None:
        msg["infer"] = {**msg["infer"], _OVERRIDES: self._overrides}  # for when the site is scored


def overrides_of(nodes: Mapping[str, Message]) -> ParameterOverrides:
    """What stood in for the parameters of modules in a run."""
    found = (msg["infer"].get(_OVERRIDES) for msg in nodes.values() if msg["type"] == "sample")
    return next((overrides for overrides in found if overrides is not None), ParameterOverrides())


class MarkEnumerable(Messenger):
    """Ask for parallel enumeration at the sites that a predicate picks."""

    def __init__(self, wanted: Callable[[Message], bool]) -> None:
        super().__init__()
        self._wanted = wanted

    def _pyro_sample(self, msg: Message) -> None:
        if msg["value"] is None and is_data(msg) and self._wanted(msg):
            msg["infer"]["enumerate"] = "parallel"
