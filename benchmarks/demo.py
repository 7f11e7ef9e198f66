"""The main job: eight schools by every method that can, one table against the quadrature values, pictures.

make demo
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

import eight_schools

import phlogiston as ph
from phlogiston.inference import registry
from phlogiston.posterior.tables import align

SETTINGS: dict[str, dict[str, Any]] = {
    "importance": {"num_particles": 200_000},
    "hmc": {"num_samples": 400, "num_warmup": 300, "target_accept_prob": 0.9},
    "nuts": {"num_samples": 1000, "num_warmup": 500, "target_accept_prob": 0.9},
    "mh": {"num_chains": 32, "num_steps": 25},
    "gibbs": {"num_chains": 16, "num_steps": 4},
}


def row(name: str, posterior: ph.Posterior) -> list[str]:
    """One line of the table: each estimate with its standard error, and its distance from the exact value in errors."""
    cells = [name]
    for site in ("mu", "tau"):
        estimate = posterior.expect(site)
        distance = (float(estimate.value) - float(eight_schools.reference.mean[site])) / float(estimate.se)
        cells.append(f"{float(estimate.value):.4f} ± {float(estimate.se):.4f} ({distance:+.1f})")
    if posterior.log_evidence is None:
        cells.append("not estimated")
    else:
        evidence = posterior.log_evidence
        distance = (evidence.value - eight_schools.reference.log_evidence) / evidence.se
        cells.append(f"{evidence.value:.4f} ± {evidence.se:.4f} ({distance:+.1f})")
    return [*cells, f"{posterior.seconds:.1f} s", posterior.engine, f"{len(posterior.diagnose())}"]


def main() -> None:
    """Fit, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    out = parser.parse_args().out
    began = time.perf_counter()
    exact = eight_schools.reference
    head = ["method", "E mu ± error (z)", "E tau ± error (z)", "log evidence ± error (z)", "time", "engine", "warnings"]
    rows = [
        head,
        ["quadrature", f"{exact.mean['mu']:.6f}", f"{exact.mean['tau']:.6f}", f"{exact.log_evidence:.6f}", "", "", ""],
    ]
    told: list[str] = []
    for name in registry.METHODS:
        if registry.method_class(name).needs.unmet(eight_schools.model.structure):
            try:
                ph.infer(eight_schools.model, name)
            except ph.UnsupportedModel as refusal:
                told.append(f"{name} refuses: {refusal}")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ph.PhlogistonWarning)  # printed below, from the result
            posterior = ph.infer(eight_schools.model, name, seed=0, **SETTINGS.get(name, {}))
        rows.append(row(name, posterior))
        told += [f"{name} warns: {line}" for line in posterior.warnings]
        pictures = posterior.plot.all(out / name)
        posterior.save(out / name / "posterior.nc")
        told.append(f"{name} drew {', '.join(path.name for path in pictures)} in {out / name}")
    print("\nEight schools (Rubin 1981), non-centred, by every method that can treat it:\n")
    print(align(rows), *["", *told], sep="\n")
    print(
        f"\nz is the distance from the quadrature value in standard errors. {time.perf_counter() - began:.0f} s in all."
    )


if __name__ == "__main__":
    main()
