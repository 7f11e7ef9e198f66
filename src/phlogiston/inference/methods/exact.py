"""Exact inference by enumeration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from phlogiston.engine.program.isolate import seed_sequence
from phlogiston.engine.trace.batched import TIERS, Tier
from phlogiston.errors import ImpossibleEvidence, UnsupportedModel, one_of, positive_int
from phlogiston.inference.method import Needs, Result
from phlogiston.model.model import Model
from phlogiston.stats.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class Exact:
    r"""Sum over every value of every discrete latent, following the program's plates and independences.

    :math:`p(x) = \sum_z p(x, z)` exactly, and :math:`p(z_i \mid x)` for every discrete latent, in
    ``posterior.marginals``; ``posterior.draws`` are independent draws from the exact joint posterior. The sum is
    carried out by tensor variable elimination: latents in a plate cost their sum, not their product, and a chain
    under ``pyro.markov`` costs its length.

    Args:
        num_samples: draws from the exact posterior.
        max_table: the largest intermediate table, in numbers, that is still worked with.
        engine: the tier that draws.

    Raises:
        UnsupportedModel: a latent is continuous or has infinitely many values (named), or a table would be too
            large (its size is given).
        ImpossibleEvidence: no value of the latents allows the observations.

    References:
        Obermeyer, Bingham, Jankowiak, Chiu, Pradhan, Rush and Goodman (2019), Tensor Variable Elimination for
        Plated Factor Graphs, https://arxiv.org/abs/1902.03210

    Example:
        >>> def program():
        ...     c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5])))
        ...     pyro.sample("x", dist.Normal(torch.tensor([-1.0, 1.0])[c], 1.0))
        >>> post = ph.infer(ph.Model(program).observe(x=0.5), "exact", seed=0)
        >>> post.marginals["c"]  # the logistic function of 2 x
        tensor([0.2689, 0.7311], dtype=torch.float64)
    """

    num_samples: int = 1000
    max_table: int = 10_000_000
    engine: Tier = "auto"

    paper: ClassVar[str] = "Obermeyer et al. 2019"
    needs: ClassVar[Needs] = Needs(continuous="none", discrete="enumerable", density=True)

    def __post_init__(self) -> None:
        positive_int(num_samples=self.num_samples, max_table=self.max_table)
        one_of(TIERS, engine=self.engine)

    def __call__(self, model: Model, *, seed: int | None = None, progress: bool = True) -> Result:
        """Infer; see the class."""
        target = model.target(self.engine)
        size = target.table_size()
        if size > self.max_table:
            raise UnsupportedModel(
                f"method 'exact': found a table of {size:.3g} numbers; expected at most "
                f"max_table={self.max_table:.3g}; "
                "independent latents belong in a plate, chains under pyro.markov; or use 'importance'"
            )
        log_evidence, marginals = target.enumerate()
        if not math.isfinite(log_evidence):
            raise ImpossibleEvidence(
                f"method 'exact': found a log evidence of {float(log_evidence)}; expected a finite one: under this "
                "program the observations cannot happen; check the data against the program's supports"
            )
        draws = target.enumerate_draws(self.num_samples, seed_sequence(seed))
        return Result(
            draws=draws,
            log_evidence=Estimate(float(log_evidence), 0.0, "exact"),
            marginals=marginals,
            figures={"largest_table": float(size)},
            engine=target.engine_of("discretes"),
        )
