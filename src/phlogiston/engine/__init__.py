"""Programs to densities: the only folder that touches poutine, functorch, FX and Inductor."""

from phlogiston.engine.centring import Centred, Recentred, centred_sites
from phlogiston.engine.rebinding import Family
from phlogiston.engine.relations import parents_of
from phlogiston.engine.sites import Plate, Site, Structure, discover
from phlogiston.engine.target import Target

__all__ = [
    "Centred",
    "Family",
    "Plate",
    "Recentred",
    "Site",
    "Structure",
    "Target",
    "centred_sites",
    "discover",
    "parents_of",
]
