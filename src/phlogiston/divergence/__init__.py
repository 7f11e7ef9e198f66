"""How far apart two distributions are: between densities, and between samples of them."""

from phlogiston.divergence.densities import entropy, js, kl
from phlogiston.divergence.mixtures import Modes, modes
from phlogiston.divergence.samples import C2st, Mmd, c2st, mmd

__all__ = ["C2st", "Mmd", "Modes", "c2st", "entropy", "js", "kl", "mmd", "modes"]
