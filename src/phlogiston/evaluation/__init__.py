"""How good an amortised guide is: bounds on each datum's likelihood, its posterior, its gap, its use of its latents."""

from phlogiston.evaluation.bounds import Bound, Likelihood, bound, likelihood
from phlogiston.evaluation.draws import generated, posterior
from phlogiston.evaluation.encoded import Encoded, with_data
from phlogiston.evaluation.gap import GapSplit, gap_split
from phlogiston.evaluation.usage import Usage, usage

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
