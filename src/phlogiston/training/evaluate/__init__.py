"""How good an amortised guide is: bounds on each datum's likelihood, its posterior, its gap, its use of its latents."""

from phlogiston.training.evaluate.draws import generated, posterior
from phlogiston.training.evaluate.gap import GapSplit, gap_split
from phlogiston.training.evaluate.likelihood import Bound, Likelihood, bound, likelihood
from phlogiston.training.evaluate.pairs import Encoded, with_data
from phlogiston.training.evaluate.usage import Usage, usage

__all__ = [
    "Bound",
    "Encoded",
    "GapSplit",
    "Likelihood",
    "Usage",
    "bound",
    "gap_split",
    "generated",
    "likelihood",
    "posterior",
    "usage",
    "with_data",
]
