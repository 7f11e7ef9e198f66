"""Whether adversarial training ended well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from phlogiston.posterior.verdict import Check, Finding, failed, skipped
from phlogiston.training.adversarial.loop import Alarm

Array = NDArray[np.float64]

WORSE = 2.0


def check_game(alarms: Sequence[Alarm]) -> Check:
    """Whether an alarm was on when training ended.

    Args:
        alarms: every alarm that was raised.
    """
    name = "alarms of the game"
    lasting = [alarm for alarm in alarms if not alarm.until]
    over = len(alarms) - len(lasting)
    if not lasting:
        return Check(name, f"none at the end{f', {over} before' if over else ''}")
    finding = Finding(
        "; ".join(map(str, lasting)),
        "train again with the relativistic loss, a larger r1 and r2, or smaller learning rates",
        number=float(len(lasting)),
        threshold=0.0,
        meaning="Generator and critic were out of balance: the last steps did not bring it closer to the data.",
        severity="do not use" if any(alarm.kind == "mode collapse" for alarm in lasting) else "caution",
    )
    return failed(name, finding)


def check_distance(distances: Array, kept: float) -> Check:
    """Whether the game ended about as near to held-out data as it ever was.

    Args:
        distances: at each check, in standard deviations of the data.
        kept: that of the parameters that were kept.
    """
    name = "distance to held-out data"
    if distances.size < 2:
        return skipped(name, f"{distances.size} checks are too few")
    least = float(distances.min())
    if kept <= WORSE * least:
        return Check(name, f"{kept:.3f} standard deviations, the least was {least:.3f}")
    finding = Finding(
        f"the distance to held-out data ended at {kept:.3f}, after {least:.3f} before (limit {WORSE} times)",
        "set patience, or lower the learning rates",
        number=kept,
        threshold=WORSE * least,
        meaning="Training went on after its best: the generator has drifted away from the data again.",
    )
    return failed(name, finding)
