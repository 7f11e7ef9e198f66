"""Results side by side: the evidence from draws, models of the same data, methods on one model, generators."""
