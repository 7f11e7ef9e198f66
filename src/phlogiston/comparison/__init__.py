"""Posteriors side by side: the evidence from draws, models of the same data, methods on the same model."""

from phlogiston.comparison.agreement import Agreement, agree
from phlogiston.comparison.bridging import evidence
from phlogiston.comparison.models import Comparison, compare

__all__ = ["Agreement", "Comparison", "agree", "compare", "evidence"]
