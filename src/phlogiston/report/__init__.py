"""Self-contained pages that a scientist would mail to a colleague."""

from phlogiston.report.film import film
from phlogiston.report.of_fitted import write_fitted
from phlogiston.report.of_posterior import write_posterior

__all__ = ["film", "write_fitted", "write_posterior"]
