"""Settings under which every method answers within seconds, for tests that run all of them."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "exact": [{"num_samples": 2000}],
    "rejection": [{"num_samples": 500}],
    "importance": [{"num_particles": 40_000}],
    # With 32 chains 1 in 24 seeds is 4 s.e. low in the sd of eight schools' tau: its tail is long. So for gibbs below.
    "hmc": [{"num_samples": 100, "num_warmup": 150, "num_chains": 64, "engine": "graph"}],
    "nuts": [{"num_samples": 250, "num_warmup": 150, "num_chains": 8, "engine": "graph"}],
    "mh": [{"num_samples": 300, "num_warmup": 300, "num_chains": 16, "num_steps": 4}],
    # With 8 chains seed 12 is 3.7 to 4.5 s.e. off in one sd of the funnel. More chains shrink that (-3.7, -3.1 and -2.4
    # with 8, 16 and 64), as they would not a bias, and none of 120 other seeds was off by 4 in any of 20 numbers.
    "gibbs": [{"num_samples": 400, "num_warmup": 100, "num_chains": 16, "engine": "graph"}],
    "laplace": [{"num_samples": 4000}],
    "pathfinder": [{"num_samples": 4000}],
    "svi": [{"guide": "multivariate_normal", "engine": "graph", "num_steps": 800, "window": 40, "num_samples": 2000}],
    "smc": [{"engine": "graph"}],
    "ais": [{"num_particles": 1000, "num_temperatures": 40, "engine": "graph"}],
}
