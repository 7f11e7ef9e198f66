"""Self-contained pages that a scientist would mail to a colleague."""

from phlogiston.report.of_fitted import write_fitted
from phlogiston.report.of_posterior import write_posterior

__all__ = ["write_fitted", "write_posterior"]
