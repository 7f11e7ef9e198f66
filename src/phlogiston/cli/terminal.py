"""What a run looks like in the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phlogiston.posterior import tables
from phlogiston.posterior.posterior import Posterior

WIDTH = 100
MAX_ROWS = 40


def report(posterior: Posterior, source: str) -> str:
    """The head, the summary, exact probabilities and the evidence, a blank line between them.

    Args:
        posterior: of the run.
        source: where the model was found.
    """
    plan = [] if posterior.plan is None else [str(posterior.plan)]
    parts = [_head(posterior, source), *plan, _summary(posterior)]
    if posterior.marginals:
        parts.append(_probabilities(posterior))
    figures = [("log evidence", str(posterior.log_evidence))] if posterior.log_evidence is not None else []
    figures += [(name.replace("_", " "), _short(float(value))) for name, value in posterior.figures.items()]
    width = max((len(name) for name, _ in figures), default=0)
    parts.append("\n".join(f"{name:<{width}}  {value}" for name, value in figures))
    return "\n\n".join(part for part in parts if part)


def _short(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"


def _head(posterior: Posterior, source: str) -> str:
    model = posterior.model
    observed = model.structure.observations if model is not None else {}
    given = ", ".join(f"{name}{list(value.shape) or ''}" for name, value in observed.items()) or "nothing"
    name = model.name if model is not None else "?"
    settings = ", ".join(f"{key}={value!r}" for key, value in posterior.settings.items() if key != "engine")
    sentences = [
        f"Model {name} ({source}) given {given}.",
        f"Method {posterior.method} ({settings}), seed {posterior.seed}:",
        f"{_draws(posterior)} in {posterior.seconds:.1f} s on engine {posterior.engine}"
        + (", stopped by hand." if posterior.interrupted else "."),
    ]
    return textwrap.fill(" ".join(sentences), WIDTH, break_long_words=False, break_on_hyphens=False)


def _draws(posterior: Posterior) -> str:
    count = posterior.num_draws
    if posterior.is_chain:
        chains = posterior.num_chains
        return f"{chains} chain{'s' * (chains > 1)} of {count} draw{'s' * (count > 1)}"
    kind = "independent" if posterior.log_weights is None else "weighted"
    return f"{count} {kind} draw{'s' * (count > 1)}"


def _summary(posterior: Posterior) -> str:
    table = posterior.summary()
    text = tables.render(table.iloc[:MAX_ROWS])
    hidden = len(table) - MAX_ROWS
    return text if hidden <= 0 else f"{text}\n... and {hidden} more rows, which --out FOLDER writes to summary.csv"


def _probabilities(posterior: Posterior) -> str:
    """The exact posterior probabilities of every value of every discrete component."""
    states = max(value.shape[-1] for value in posterior.marginals.values())
    rows = [["probability of", *map(str, range(states))]]
    for name, value in posterior.marginals.items():
        array = value.numpy()
        for index in np.ndindex(*array.shape[:-1]):
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            cells = [f"{probability:.4f}" for probability in array[index]]
            rows.append([label, *cells, *[""] * (states - len(cells))])
    hidden = len(rows) - 1 - MAX_ROWS
    text = tables.align(rows[: MAX_ROWS + 1])
    return text if hidden <= 0 else f"{text}\n... and {hidden} more rows, which --out FOLDER writes to posterior.nc"


def doubts(posterior: Posterior, messages: Sequence[str]) -> list[str]:
    """Every warning once, each a short paragraph that ends in what to do.

    Args:
        posterior: of the run, with its own warnings one by one.
        messages: all warnings as they were given, the posterior's own joined in one.
    """
    joined = " | ".join(posterior.warnings)
    others = [message for message in messages if not (joined and message.endswith(joined))]
    texts = dict.fromkeys([*others, *posterior.warnings])
    return [textwrap.fill(f"warning: {text}", WIDTH, subsequent_indent="  ", break_long_words=False) for text in texts]


def whereabouts(written: Sequence[Path]) -> str:
    """What was written where."""
    if not written:
        return "\nnothing was written; --out FOLDER keeps the draws, the summary and pictures"
    return "\n" + "\n".join(f"wrote {path}" for path in written)
