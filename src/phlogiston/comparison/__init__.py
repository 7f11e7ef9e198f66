"""Things side by side: the evidence from draws, models of the same data, methods on one model, generators."""

from phlogiston.comparison.agreement import Agreement, agree
from phlogiston.comparison.bridging import evidence
from phlogiston.comparison.generators import GeneratorComparison, Judgement, compare_generators
from phlogiston.comparison.models import Comparison, compare

__all__ = [
    "Agreement",
    "Comparison",
    "GeneratorComparison",
    "Judgement",
    "agree",
    "compare",
    "compare_generators",
    "evidence",
]
