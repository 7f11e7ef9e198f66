"""Stochastic variational inference: inference as optimisation of a bound on the evidence."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from phlogiston.engine.program.plates import data_plate
from phlogiston.engine.trace import devices
from phlogiston.engine.trace.batched import TIERS, Tier
from phlogiston.errors import SettingError, did_you_mean, non_negative_int, one_of, positive, positive_int, problem
from phlogiston.inference.method import Needs, Result, known_start
from phlogiston.inference.methods.modes import Laplace
from phlogiston.inference.starts import Start
from phlogiston.inference.variational.flat import fit_flat
from phlogiston.inference.variational.learned import GuideFamily
from phlogiston.inference.variational.posterior import fit_learned
from phlogiston.inference.variational.training import fitted
from phlogiston.model.model import Model
from phlogiston.posterior.posterior import Posterior
from phlogiston.training.adam import Adam
from phlogiston.training.amortised import fit as fitting
from phlogiston.training.amortised.guide import Amortized
from phlogiston.training.amortised.latents import split_of
from phlogiston.training.bounds import Bound, Gradient
from phlogiston.training.fitted import Fitted
from phlogiston.training.guides import GUIDES, FlatFamily, is_flat

BOUNDS: tuple[str, ...] = ("elbo", "iwae", "renyi")
_OPTIM = Adam(learning_rate=0.05)


@dataclass(frozen=True, kw_only=True)
class SVI:
    r"""Fit a guide to the posterior by climbing a lower bound of the log evidence.

    For a guide :math:`q_\phi` maximises
    :math:`\mathcal L(\phi) = E_{q_\phi}[\log p(x, z) - \log q_\phi(z)] = \log p(x) - \mathrm{KL}[q_\phi, p(z \mid x)]`,
    or a tighter bound from several draws. The gap that is left is measured: ``post.gap``, from ``post.log_evidence``
    (importance-sampled from the guide) and ``post.elbo``; the draws carry their weights, and k-hat says whether they
    can be trusted. Discrete latents that can be enumerated are summed out, then drawn back. As a trainer
    (``ph.train(model, ph.SVI(...))``) it learns the program's own parameters too.

    Args:
        guide: "normal" (independent), "multivariate_normal", "low_rank" (normals with any covariance, or one of
            ``rank`` directions beside the diagonal), "structured" (elements of a plate depend on what is outside it,
            not on each other), "flow" (a neural spline flow; needs zuko), "laplace" (see ``ph.Laplace``), "delta" (a
            point; see ``ph.MAP``), or a ``ph.FlatFamily``: densities on the unconstrained scale. Or a Pyro guide, on
            the program's inputs or on none; latents that it lacks get an independent normal, discrete ones are summed
            out, its own discrete ones use the score function, or are summed over in the ELBO where they say
            ``infer={"enumerate": "parallel"}``. Or a family of guides, such as ``ph.Amortized()``.
        bound: "elbo"; "iwae", the importance-weighted bound of ``num_particles`` draws; "renyi", of order ``alpha``.
        gradient: "sticking" leaves the guide's own score out, whose mean is zero: sticking the landing, and DReG for
            the importance-weighted bound; "pathwise" keeps it. Guides that are programs use "pathwise", with KL
            divergences in closed form where there is one.
        alpha: order of Rényi's bound, below 1.
        num_particles: draws a step; None takes 8 for a guide by name and 1 (2 where the score function is used) else.
        num_steps: at most.
        window: steps over which the bound is smoothed.
        tolerance: a rise of the smoothed bound that does not count, in nats.
        stop: whether to lower the learning rate and stop once the smoothed bound no longer rises; False runs all steps.
        optim: the optimiser; by default Adam at 0.05, and at 0.001 for the networks of ``ph.Amortized()``.
        batch_size: rows of a minibatch; every row comes once an epoch, a row counts N / B times. None: the
            ``subsample_size`` of the program's plate where it has one, else all data.
        plate: the plate of the rows; the longest that holds observations by default.
        kl_warmup: steps over which the weight of the KL divergence rises to 1; the bound is always reported at 1.
        free_bits: nats of each latent's KL divergence, a row on average, that cost nothing.
        num_samples: draws from the guide, in the end.
        rank: of "low_rank".
        initial: where a guide by name starts: "uniform", "prior", "median", or values by site.
        dtype: "auto" takes float64 for a posterior and float32 for training; "bfloat16" is for the products of networks
            in training with ``ph.Amortized()``.
        cosine: whether the learning rate falls to nothing along a cosine over ``num_steps``, for ``ph.Amortized()``.
        engine: the tier to use.
        device: where the networks of ``ph.Amortized()`` are trained: "cpu", "cuda", "cuda:1", or "auto", the first GPU
            where there is one and a step has work enough for it. Data, program and guide are moved; random numbers are
            drawn on the CPU, where results are too.

    References:
        Kucukelbir et al. (2017), https://arxiv.org/abs/1603.00788; Roeder et al. (2017),
        https://arxiv.org/abs/1703.09194; Burda et al. (2016), https://arxiv.org/abs/1509.00519; Tucker et al. (2019),
        https://arxiv.org/abs/1810.04152; Li and Turner (2016), https://arxiv.org/abs/1602.02311

    Example:
        >>> def program():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        ...     pyro.sample("y", dist.Normal(mu, 1.0))
        >>> post = ph.infer(ph.Model(program).observe(y=1.0), ph.SVI(engine="graph"), seed=0, progress=False)
        >>> bool(post.gap.value < 0.001)
        True
    """

    guide: str | FlatFamily | Callable[..., Any] | GuideFamily = "normal"
    bound: Bound = "elbo"
    gradient: Gradient = "sticking"
    alpha: float = 0.5
    num_particles: int | None = None
    num_steps: int = 20_000
    window: int = 200
    tolerance: float = 0.005
    stop: bool = True
    optim: Adam = _OPTIM
    batch_size: int | None = None
    plate: str | None = None
    kl_warmup: int = 0
    free_bits: float = 0.0
    num_samples: int = 1000
    rank: int = 5
    initial: Start | Mapping[str, Any] = "uniform"
    dtype: Literal["auto", "float64", "float32", "bfloat16"] = "auto"
    cosine: bool = False
    engine: Tier = "auto"
    device: str = "cpu"

    exact: ClassVar[bool] = False
    paper: ClassVar[str] = "Hoffman et al. 2013; Kucukelbir et al. 2017"
    needs: ClassVar[Needs] = Needs(continuous="some", discrete="enumerable", density=True)

    def __post_init__(self) -> None:
        positive_int(num_steps=self.num_steps, window=self.window, num_samples=self.num_samples, rank=self.rank)
        if self.num_particles is not None:
            positive_int(num_particles=self.num_particles)
        if self.batch_size is not None:
            positive_int(batch_size=self.batch_size)
        positive(tolerance=self.tolerance)
        non_negative_int(kl_warmup=self.kl_warmup)
        one_of(BOUNDS, bound=self.bound)
        one_of(("sticking", "pathwise"), gradient=self.gradient)
        one_of(("auto", "float64", "float32", "bfloat16"), dtype=self.dtype)
        one_of(TIERS, engine=self.engine)
        devices.check(self.device)
        self._check_guide()
        if self._of_networks() is None:
            self._refuse_device()
        if self.bound == "renyi" and not self.alpha < 1.0:
            raise SettingError(problem("alpha", found=repr(self.alpha), expected="a number below 1, for a lower bound"))
        if not isinstance(self.optim, Adam):
            raise SettingError(problem("optim", found=repr(self.optim), expected="ph.Adam(learning_rate=...)"))
        known_start(self.initial)
        if self.kl_warmup >= self.num_steps or not self.free_bits >= 0.0:
            raise SettingError(
                problem(
                    "kl_warmup, free_bits",
                    found=f"{self.kl_warmup} steps of {self.num_steps}, {self.free_bits} nats",
                    expected="a warm-up that ends before training does, and nats from zero on",
                    fix=f"kl_warmup={self.num_steps // 2}",
                )
            )

    def _check_guide(self) -> None:
        if isinstance(self.guide, str):
            if self.guide not in GUIDES:
                raise SettingError(f"guide: found {self.guide!r}; {did_you_mean(self.guide, GUIDES)}")
        elif isinstance(self.guide, type):
            fix = f"guide={self.guide.__name__}()"
            raise SettingError(problem("guide", found=f"the class {self.guide.__name__}", expected="a guide", fix=fix))
        elif not callable(self.guide) and not isinstance(self.guide, (FlatFamily, GuideFamily)):
            raise SettingError(
                problem("guide", found=repr(self.guide), expected="a name, a Pyro guide or ph.Amortized()")
            )

    def _refuse_device(self) -> None:
        if self.device in ("cpu", "auto"):
            return
        raise SettingError(
            problem(
                "device",
                found=f"{self.device!r} with guide={self.guide!r}, bound={self.bound!r}",
                expected="the ELBO of networks, by guide=ph.Amortized() with one particle and every latent in the "
                "plate of the data: other steps are so small that a GPU would only slow them down",
                fix="device='cpu'",
            )
        )

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result | Posterior:
        """Infer; see the class."""
        if self.guide == "laplace" and self.batch_size is None:
            laplace = Laplace(num_samples=self.num_samples, initial=self.initial, engine=self.engine)
            return laplace(model, seed=seed, progress=progress)
        if (batch := self._batch_of(model)) is not None:
            return replace(self, batch_size=batch)(model, seed=seed, progress=progress)
        if (learning := self._of_networks()) is not None and not split_of(model, learning.guide.plate).rest:
            count, seed = self.num_samples, secrets.randbits(32) if seed is None else seed
            return fitting.infer_amortised(learning, model, seed=seed, progress=progress, num_samples=count)
        self._refuse_device()
        if is_flat(self.guide) and self.batch_size is None and self.dtype != "float32":
            return fit_flat(self, model, seed, progress)
        return fit_learned(self, model, seed, progress)

    def fit(
        self,
        model: Model,
        *,
        seed: int,
        progress: bool = True,
        resume_from: Fitted | None = None,
        checkpoint: Path | None = None,
    ) -> Fitted:
        """Train; see the class."""
        if (batch := self._batch_of(model)) is not None:
            settings = replace(self, batch_size=batch)
            return settings.fit(model, seed=seed, progress=progress, resume_from=resume_from, checkpoint=checkpoint)
        if (learning := self._of_networks()) is not None:
            return fitting.fit(
                learning, model, seed=seed, progress=progress, resume_from=resume_from, checkpoint=checkpoint
            )
        return fitted(self, model, seed=seed, progress=progress, resume_from=resume_from, checkpoint=checkpoint)

    def _batch_of(self, model: Model) -> int | None:
        """The ``subsample_size`` of the program's own minibatches, where the settings do not say another size."""
        plate = data_plate(model.structure.observable, self.plate)
        whole = plate is None or self.batch_size is not None or self.guide == "laplace"
        return None if whole or plate is None else plate.batch

    def _of_networks(self) -> fitting.Learning | None:
        """The settings for an encoder's ELBO, which is climbed in place; None for anything else."""
        if not isinstance(self.guide, Amortized) or self.bound != "elbo" or (self.num_particles or 1) > 1:
            return None
        return fitting.Learning(
            guide=self.guide,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
            optim=Adam(learning_rate=1e-3) if self.optim is _OPTIM else self.optim,
            cosine=self.cosine,
            stop=self.stop and not self.cosine,
            tolerance=self.tolerance,
            kl_warmup=self.kl_warmup,
            free_bits=self.free_bits,
            precision="float32" if self.dtype == "auto" else self.dtype,
            engine=self.engine,
            device=self.device,
        )

    @property
    def order(self) -> float:
        r"""The order :math:`\alpha` of the bound: 1 for the ELBO, 0 for the importance-weighted bound."""
        return {"elbo": 1.0, "iwae": 0.0, "renyi": self.alpha}[self.bound]
