"""How far apart two distributions are: between densities, and between samples of them."""

from phlogiston.stats.divergence.densities import entropy, js, kl
from phlogiston.stats.divergence.mixtures import Modes, modes
from phlogiston.stats.divergence.moments import frechet, kid
from phlogiston.stats.divergence.neighbours import Fidelity, fidelity
from phlogiston.stats.divergence.ratios import DensityRatio, density_ratio
from phlogiston.stats.divergence.samples import C2st, Mmd, c2st, mmd
from phlogiston.stats.divergence.slices import sliced_wasserstein

__all__ = [
    "C2st",
    "DensityRatio",
    "Fidelity",
    "Mmd",
    "Modes",
    "c2st",
    "density_ratio",
    "entropy",
    "fidelity",
    "frechet",
    "js",
    "kid",
    "kl",
    "mmd",
    "modes",
    "sliced_wasserstein",
]
