"""How far apart two distributions are: between densities, and between samples of them."""

from phlogiston.divergence.densities import entropy, js, kl
from phlogiston.divergence.mixtures import Modes, modes
from phlogiston.divergence.moments import frechet, kid
from phlogiston.divergence.neighbours import Fidelity, fidelity
from phlogiston.divergence.ratios import DensityRatio, density_ratio
from phlogiston.divergence.samples import C2st, Mmd, c2st, mmd
from phlogiston.divergence.slices import sliced_wasserstein

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
