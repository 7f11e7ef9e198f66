"""``Fitted``: what every trainer returns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from phlogiston.errors import SettingError, UnknownName, UnsupportedModel, did_you_mean, problem, renamed
from phlogiston.model import resize
from phlogiston.model.model import Model
from phlogiston.model.noise import Noise, measured
from phlogiston.posterior import checkpoint
from phlogiston.posterior.posterior import Posterior
from phlogiston.posterior.verdict import Diagnosis
from phlogiston.training import evaluate
from phlogiston.training.amortised.guide import AmortizedGuide
from phlogiston.training.evaluate.gap import GapSplit
from phlogiston.training.evaluate.likelihood import Bound, Likelihood
from phlogiston.training.evaluate.pairs import Encoded
from phlogiston.training.evaluate.usage import Usage


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A program with learned parameters, and how they were learned.

    Args:
        model: the model that was trained, its parameters held at what was learned: a ``Model`` like any other.
        method: the trainer's name.
        settings: the trainer's settings, as they were used.
        guide: the amortised guide that was learned beside it, where there is one.
        history: curve -> one number a record; "step" says at which step each record was made.
        converged: whether the trainer's own rule for stopping was met.
        stop_reason: why training ended, in words.
        figures: numbers about the run.
        state: all that training needs to go on bit for bit: what ``train(..., resume_from=fitted)`` starts from.
        seed: of the run.
        seconds: of the run, compilation included.
        engine: the tier that evaluated the program.
        warnings: what was warned of.
        interrupted: whether the run was stopped by hand.
    """

    model: Model
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    guide: Any | None = None
    history: Mapping[str, np.ndarray] = field(default_factory=dict)
    converged: bool = False
    stop_reason: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    seconds: float = 0.0
    engine: str = ""
    warnings: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def params(self) -> Mapping[str, torch.Tensor]:
        """The learned parameters by ``pyro.param`` name, constrained."""
        return self.model.parameters

    def simulate(self, num_samples: int = 1000, *, seed: int | None = None) -> dict[str, torch.Tensor]:
        """Draw every site of the trained program, latents from their priors: ``[num_samples, *site shape]``."""
        return self.model.simulate(num_samples, seed=seed)

    def measured(self, *, noise: Noise, **data: Any) -> Model:
        """The trained generator as the prior of data that were measured with noise: see ``ph.measured``.

        ``ph.infer(fitted.measured(x=image, noise=0.1), "nuts")`` inverts an image, completes its NaN entries, and
        ``ph.AIS()`` in the place of "nuts" estimates its log likelihood.
        """
        return measured(self.model, noise=noise, **data)

    def generate(self, num_elements: int, *, seed: int | None = None) -> dict[str, torch.Tensor]:
        """New data: the trained program's sites in the plate of its data, ``[num_elements, ...]`` each."""
        if not isinstance(self.guide, AmortizedGuide):
            return resize.generated(self.model, num_elements, seed)
        return evaluate.generated(self._encoded({}), num_elements, seed)

    def state_dict(self, module: str) -> dict[str, torch.Tensor]:
        """The learned parameters of one of the program's modules, for its ``load_state_dict``.

        Args:
            module: the name that ``pyro.module`` gave it.

        Raises:
            UnknownName: there is no such module.
        """
        front = module + "$$$"
        found = {name.removeprefix(front): v for name, v in self.params.items() if name.startswith(front)}
        if not found:
            known = {name.partition("$$$")[0] for name in self.params if "$$$" in name}
            raise UnknownName(
                f"state_dict: program {self.model.name!r} has no module {module!r}; {did_you_mean(module, known)}"
            )
        return found

    def posterior(self, *, num_samples: int = 1000, seed: int | None = None, **data: Any) -> Posterior:
        """The latents of new data, drawn from the amortised guide: one pass of the encoder.

        Args:
            num_samples: draws.
            seed: of the draws.
            **data: the new data by site (and by input, where the program has inputs with one row a datum); the training
                data if there are none.

        Returns:
            a posterior of all the data's latents; for a single datum its draws carry their importance weights.

        Raises:
            UnsupportedModel: there is no amortised guide, or there are latents that all data share.
            ModelError: the data do not fit.
        """
        return evaluate.posterior(self._encoded(data), num_samples, seed)

    def bound_log_likelihood(
        self,
        *,
        num_samples: int = 100,
        repeats: int = 1,
        method: Literal["iwae", "ais"] = "iwae",
        num_steps: int = 50,
        seed: int | None = None,
        **data: Any,
    ) -> Likelihood:
        r"""The log likelihood of each datum, bounded by importance sampling from the guide.

        .. math:: \log p(x) \ge E\Big[\log\frac1K\sum_{k=1}^K\frac{p(x, z_k)}{q(z_k \mid x)}\Big],
            \qquad z_k \sim q(z \mid x)

        "ais" brings every draw from the guide to the posterior by degrees, through the densities
        :math:`q^{1 - t/T} p^{t/T}`, each kept by a Hamiltonian trajectory; the weights of such chains are far more even
        where the guide is poor, at some three to sixteen gradients a step.

        Args:
            num_samples: K, exactly; the bound rises with it and meets the likelihood as it grows.
            repeats: how often the bound is drawn, with its spread.
            method: "iwae", importance weights of the guide's draws, or "ais", of annealed chains.
            num_steps: T, of "ais".
            seed: of the draws.
            **data: new data by site or input; the training data if there are none.

        References:
            Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders. https://arxiv.org/abs/1509.00519
            Wu, Burda, Salakhutdinov and Grosse (2017), On the quantitative analysis of decoder-based generative models.
            https://arxiv.org/abs/1611.04273
        """
        if method not in ("iwae", "ais"):
            raise SettingError(problem("method", found=repr(method), expected="'iwae' or 'ais'"))
        steps = num_steps if method == "ais" else 1
        return evaluate.likelihood(self._encoded(data), num_samples, repeats=repeats, seed=seed, num_steps=steps)

    def estimate_elbo(self, *, num_samples: int = 16, seed: int | None = None, **data: Any) -> Bound:
        """The evidence lower bound of each datum, at weight one, with reconstruction and KL."""
        return evaluate.bound(self._encoded(data), num_samples, seed)

    def usage(self, *, seed: int | None = 0, **data: Any) -> Usage:
        """Active units and the KL of each coordinate of the latents; warns of posterior collapse."""
        return evaluate.usage(self._encoded(data), seed)

    def split_gap(
        self, *, num_samples: int = 500, num_steps: int = 300, seed: int | None = None, **data: Any
    ) -> GapSplit:
        """The gap between likelihood and bound, split into approximation and amortisation.

        Args:
            num_samples: draws a datum, for the likelihood and for both bounds.
            num_steps: in which each datum's own guide is refined.
            seed: of the draws.
            **data: new data by site or input; the training data if there are none.
        """
        return evaluate.gap_split(self._encoded(data), num_samples=num_samples, num_steps=num_steps, seed=seed)

    weights = renamed("weights", "state_dict")
    log_likelihood = renamed("log_likelihood", "bound_log_likelihood")
    elbo = renamed("elbo", "estimate_elbo")
    gap = renamed("gap", "split_gap")

    def _encoded(self, data: Mapping[str, Any]) -> Encoded:
        if not isinstance(self.guide, AmortizedGuide):
            raise UnsupportedModel(
                problem(
                    f"Fitted({self.method})",
                    found="no amortised guide",
                    expected="one, which knows the latents of any datum",
                    fix="ph.train(model, ph.SVI(guide=ph.Amortized()))",
                )
            )
        model, guide = evaluate.with_data(self.model, self.guide, data)
        return Encoded(model, guide)

    def diagnose(self) -> Diagnosis:
        """Whether training ended well, the latents are used, and samples reach all of the data: a ``Diagnosis``."""
        from phlogiston.diagnostics.diagnose_training import judge_training

        return judge_training(self)

    def report(self, path: str | Path, *, command: str = "") -> Path:
        """Write one self-contained HTML page: verdict, samples, latents, training, model, what it takes to do it again.

        Args:
            path: of the page; folders are made.
            command: what was run, where the call of ``train`` does not say it.
        """
        from phlogiston.report.pages.training_page import write_fitted

        return write_fitted(self, path, command=command)

    def film(self, path: str | Path) -> Path:
        """Write the samples over time, one noise at several steps beside data: a sheet (.png) or an animation (.gif).

        Args:
            path: of the picture; folders are made.

        Raises:
            UnsupportedModel: the trainer kept none.
            SettingError: another kind of file.
        """
        frames = self.state.get("frames")
        if not frames:
            raise UnsupportedModel(
                problem(
                    f"Fitted({self.method})",
                    found="no samples over time",
                    expected="an adversarial training that kept some",
                    fix="ph.train(model, ph.Adversarial(frames=16))",
                )
            )
        from phlogiston.report.pages.film import film

        return film(f"{self.model.name}: samples over time", frames, self.state["data"], Path(path))

    def save(self, path: str | Path) -> Path:
        """Write parameters, history and state to one file of tensors and plain data, which ``ph.load`` reads."""
        kept = ("method", "settings", "converged", "stop_reason", "figures", "state", "seed", "seconds", "engine")
        content = {name: getattr(self, name) for name in (*kept, "history", "warnings", "interrupted", "params")}
        content["data"] = fingerprint(self.model)
        return checkpoint.write(content, Path(path))

    def __repr__(self) -> str:
        count = sum(value.numel() for value in self.params.values())
        partial = ", interrupted" if self.interrupted else ""
        return f"Fitted({self.method}: {count} parameters of {self.model.name}, {self.stop_reason}{partial})"


def fingerprint(model: Model) -> str:
    """A short text that differs for other data: observations, and inputs that are tensors."""
    tensors = {f"input {name}": value for name, value in model.inputs.items() if isinstance(value, torch.Tensor)}
    digest = hashlib.sha256()
    for name, value in sorted({**tensors, **model.structure.observations}.items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(torch.as_tensor(value).detach().cpu().double().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
