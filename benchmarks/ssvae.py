"""Digits with 100 labels over several splits: the generative classifier beside logistic regression on the same labels.

    python benchmarks/ssvae.py [--splits 0 1 2 3 4] [--update]

`models/ssvae_digits.py` is trained on each split of the data anew, weights and noise from the split's seed. Splits are
kept in runs/ssvae, so that a run that was cut off goes on; several processes may do one split each. `--update` writes
the table into RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time

import numpy as np
import results

COMMAND = "benchmarks/ssvae.py"


def row_of(split: int) -> list[float]:
    """Accuracy of the generative classifier and of logistic regression, and the processor's seconds."""
    path = results.ROOT / "runs" / "ssvae" / f"{split}.json"
    if not path.is_file():
        import ssvae_digits

        began = time.process_time()
        found = [*ssvae_digits.accuracies(split), time.process_time() - began]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    kept: list[float] = json.loads(path.read_text())
    return kept


def table(splits: list[int], rows: np.ndarray) -> list[str]:
    """Accuracies by split, their mean, and the mean difference with its standard error over splits."""
    lines = ["| split | generative | logistic regression | difference | s |", "|---|---|---|---|---|"]
    for split, (ours, theirs, seconds) in zip(splits, rows, strict=True):
        lines.append(f"| {split} | {ours:.3f} | {theirs:.3f} | {ours - theirs:+.3f} | {seconds:.0f} |")
    gaps, (ours, theirs, _) = rows[:, 0] - rows[:, 1], rows.mean(0)
    error = gaps.std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.nan
    return [*lines, f"| mean | {ours:.3f} | {theirs:.3f} | {gaps.mean():+.3f} ± {error:.3f} | |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    results.load_models()
    lines = table(arguments.splits, np.array([row_of(split) for split in arguments.splits]))
    print("\n".join(lines))
    if arguments.update:
        text = (
            "scikit-learn's digits: 100 labels (ten a class), 1,197 images without, 500 to test on. Accuracy on these, "
            "of Bayes' rule in a program with a VAE inside (`models/ssvae_digits.py`) and of logistic regression on "
            "the same 100 labels; ± is the standard error over splits, seconds are the processor's."
        )
        results.insert(
            "ssvae", COMMAND, ["## Digits with few labels", "", text, "", f"{datetime.date.today()}.", "", *lines]
        )


if __name__ == "__main__":
    main()
