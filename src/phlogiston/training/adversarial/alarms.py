"""When a game goes wrong: what the numbers of a check say, by the loss that is played."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from phlogiston.training.adversarial.losses import Loss

MISSING, MEMORY = 0.4, 0.2  # shares of data; of pairs


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something that was wrong at two checks in a row.

    Args:
        kind: "mode collapse", "critic wins" or "critic memorises".
        since: the step of the second of them.
        until: the step at which it was over; 0 while it lasts.
        number: the worst that was measured.
    """

    kind: str
    since: int
    number: float
    until: int = 0

    def __str__(self) -> str:
        span = f"steps {self.since} to {self.until}" if self.until else f"from step {self.since} on"
        meaning = {
            "mode collapse": "the draws left out {:.0%} of the data",
            "critic wins": "the critic was right about {:.1%} of what it saw",
            "critic memorises": "the critic told {:.0%} more of the training data than of held-out data from draws",
        }[self.kind].format(self.number)
        return f"{self.kind}, {span}: {meaning}"

    @property
    def action(self) -> str:
        """What to do about it."""
        return {
            "mode collapse": 'loss="relativistic" with r1 and r2, packing=2, or a smaller learning rate',
            "critic wins": "a larger r1 and r2, instance_noise, a smaller critic_optim rate, or fewer critic_steps",
            "critic memorises": "more data, a larger r1, instance_noise, or a smaller critic",
        }[self.kind]


def wrong(check: Mapping[str, float], loss: Loss) -> dict[str, float]:
    """What is wrong at one check, with its number.

    A critic that is nearly always right teaches nothing where its loss is flat there: at once for the saturating game,
    later for the others, never for Wasserstein's, whose outputs are heights and no odds.
    """
    found = {}
    if check["missing"] >= MISSING:
        found["mode collapse"] = check["missing"]
    right = check["right_pairs"] if loss.threshold is None else min(check["right_data"], check["right_draws"])
    if right >= loss.won:
        found["critic wins"] = right
    if check["memory"] >= MEMORY:
        found["critic memorises"] = check["memory"]
    return found


def after(
    alarms: tuple[Alarm, ...], before: Mapping[str, float] | None, now: Mapping[str, float], loss: Loss
) -> tuple[Alarm, ...]:
    """The alarms after a check: raised where it confirms the one before, over where it denies them."""
    found, earlier, step = wrong(now, loss), {} if before is None else wrong(before, loss), int(now["step"])
    updated = []
    for alarm in alarms:
        if alarm.until:
            updated.append(alarm)
        elif alarm.kind in found:
            updated.append(replace(alarm, number=max(alarm.number, found[alarm.kind])))
        else:
            updated.append(replace(alarm, until=step))
    lasting = {alarm.kind for alarm in updated if not alarm.until}
    fresh = [kind for kind in found if kind in earlier and kind not in lasting]
    return (*updated, *(Alarm(kind=kind, since=step, number=found[kind]) for kind in fresh))
