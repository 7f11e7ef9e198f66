"""Latent-variable models as Pyro programs, any inference method by name, diagnostics that say whether to believe it."""

import importlib
from typing import TYPE_CHECKING, Any

from phlogiston.version import __version__ as __version__

if TYPE_CHECKING:
    from phlogiston import divergence
    from phlogiston.adversarial.trainer import Adversarial
    from phlogiston.algorithms.ais import AIS, Sandwich
    from phlogiston.algorithms.exact import Exact
    from phlogiston.algorithms.gibbs import Gibbs
    from phlogiston.algorithms.hmc import HMC
    from phlogiston.algorithms.importance import Importance
    from phlogiston.algorithms.mh import MH
    from phlogiston.algorithms.modes import MAP, Laplace
    from phlogiston.algorithms.nuts import NUTS
    from phlogiston.algorithms.pathfinder import Pathfinder
    from phlogiston.algorithms.rejection import Rejection
    from phlogiston.algorithms.smc import SMC
    from phlogiston.algorithms.svi import SVI
    from phlogiston.calibration import Calibration, calibrate
    from phlogiston.choosing import Auto, recommend
    from phlogiston.comparison import (
        Agreement,
        Comparison,
        GeneratorComparison,
        agree,
        compare,
        compare_generators,
        evidence,
    )
    from phlogiston.decomposition import Decomposition
    from phlogiston.diagnostics import Finding, Loo, Report
    from phlogiston.engine import Site, Target
    from phlogiston.errors import (
        AmortisationWarning,
        ConvergenceWarning,
        DataFileError,
        ImpossibleEvidence,
        ModelError,
        PhlogistonWarning,
        PlanWarning,
        ProgramError,
        RejectionWarning,
        SettingError,
        ShapeWarning,
        UnknownName,
        UnsupportedModel,
        UntraceableProgram,
        WeightWarning,
        WorkerDied,
    )
    from phlogiston.estimate import Estimate
    from phlogiston.fitted import Fitted
    from phlogiston.guides.amortized import Amortized
    from phlogiston.inference import infer, load, methods
    from phlogiston.kernels.optimisers import Adam
    from phlogiston.measurement import measured
    from phlogiston.model import Model
    from phlogiston.plan import Plan
    from phlogiston.posterior import Posterior
    from phlogiston.preflight import Problem
    from phlogiston.recentring import reparam
    from phlogiston.reference import Reference
    from phlogiston.training import train

# Where each public name lives; a module is imported when one of its names is first used, so that the command line
# answers before torch is loaded.
_HOMES = {
    "adversarial.trainer": ("Adversarial",),
    "algorithms.ais": ("AIS", "Sandwich"),
    "algorithms.exact": ("Exact",),
    "algorithms.gibbs": ("Gibbs",),
    "algorithms.hmc": ("HMC",),
    "algorithms.importance": ("Importance",),
    "algorithms.mh": ("MH",),
    "algorithms.modes": ("MAP", "Laplace"),
    "algorithms.nuts": ("NUTS",),
    "algorithms.pathfinder": ("Pathfinder",),
    "algorithms.rejection": ("Rejection",),
    "algorithms.smc": ("SMC",),
    "algorithms.svi": ("SVI",),
    "choosing": ("Auto", "recommend"),
    "comparison": (
        "Agreement",
        "Comparison",
        "GeneratorComparison",
        "agree",
        "compare",
        "compare_generators",
        "evidence",
    ),
    "calibration": ("Calibration", "calibrate"),
    "decomposition": ("Decomposition",),
    "diagnostics": ("Finding", "Loo", "Report"),
    "engine": ("Site", "Target"),
    "errors": (
        "AmortisationWarning",
        "ConvergenceWarning",
        "DataFileError",
        "ImpossibleEvidence",
        "ModelError",
        "PhlogistonWarning",
        "PlanWarning",
        "ProgramError",
        "RejectionWarning",
        "SettingError",
        "ShapeWarning",
        "UnknownName",
        "UnsupportedModel",
        "UntraceableProgram",
        "WeightWarning",
        "WorkerDied",
    ),
    "estimate": ("Estimate",),
    "fitted": ("Fitted",),
    "guides.amortized": ("Amortized",),
    "inference": ("infer", "load", "methods"),
    "kernels.optimisers": ("Adam",),
    "measurement": ("measured",),
    "model": ("Model",),
    "plan": ("Plan",),
    "posterior": ("Posterior",),
    "preflight": ("Problem",),
    "reference": ("Reference",),
    "recentring": ("reparam",),
    "training": ("train",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AIS",
    "HMC",
    "MAP",
    "MH",
    "NUTS",
    "SMC",
    "SVI",
    "Adam",
    "Adversarial",
    "Agreement",
    "AmortisationWarning",
    "Amortized",
    "Auto",
    "Calibration",
    "Comparison",
    "ConvergenceWarning",
    "DataFileError",
    "Decomposition",
    "Estimate",
    "Exact",
    "Finding",
    "Fitted",
    "GeneratorComparison",
    "Gibbs",
    "Importance",
    "ImpossibleEvidence",
    "Laplace",
    "Loo",
    "Model",
    "ModelError",
    "Pathfinder",
    "PhlogistonWarning",
    "Plan",
    "PlanWarning",
    "Posterior",
    "Problem",
    "ProgramError",
    "Reference",
    "Rejection",
    "RejectionWarning",
    "Report",
    "Sandwich",
    "SettingError",
    "ShapeWarning",
    "Site",
    "Target",
    "UnknownName",
    "UnsupportedModel",
    "UntraceableProgram",
    "WeightWarning",
    "WorkerDied",
    "agree",
    "calibrate",
    "compare",
    "compare_generators",
    "divergence",
    "evidence",
    "infer",
    "load",
    "measured",
    "methods",
    "recommend",
    "reparam",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "divergence":  # a folder with names of its own
        return importlib.import_module("phlogiston.divergence")
    if name not in _HOME:
        raise AttributeError(f"module 'phlogiston' has no attribute {name!r}")
    return getattr(importlib.import_module(f"phlogiston.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
