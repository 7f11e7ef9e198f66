"""The loop of every trainer: windows of steps, undone where they fail, with progress, checkpoints and Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm


@dataclass(frozen=True)
class Ending:
    """Why a training ended.

    Args:
        reason: in words; empty while training goes on.
        bad_step: the step that met a number that is not finite.
        converged: whether the trainer's own rule for stopping was met.
        interrupted: whether the run was stopped by Ctrl-C.
    """

    reason: str = ""
    bad_step: int | None = None
    converged: bool = False
    interrupted: bool = False


RUNNING = Ending()


class State(Protocol):
    """The complete state of a training, a frozen dataclass; resuming from it reproduces the run bit for bit."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def ending(self) -> Ending:
        """Why training ended; empty while it goes on."""

    def copied(self) -> Self:
        """A copy of whatever the steps of a window overwrite."""

    def overwrite(self, other: Self) -> None:
        """Put the numbers of such a copy back."""


S = TypeVar("S", bound=State)


def run_windows(
    at: S,
    window: Callable[[S], S],
    *,
    num_steps: int,
    describe: Callable[[S, int], str],
    after_window: Callable[[S], S] = lambda at: at,
    label: str = "train",
    progress: bool = False,
) -> S:
    """Run windows of steps until ``num_steps`` are done, the state has an ending, or Ctrl-C.

    Numbers are looked at once a window, as every look waits for the device. A window that met a number that is not
    finite, or that was interrupted, is therefore undone as a whole: its first steps may have spoiled the parameters
    before a bad number was recorded.

    Args:
        at: where to start.
        window: one window; it may overwrite the tensors of the state that it is given.
        num_steps: steps in all, those of an earlier run among them.
        describe: the state and the steps of its last window -> the text of the progress bar.
        after_window: what else happens after each window, such as checks and checkpoints.
        label: the title of the progress bar.
        progress: whether there is a bar where standard error is a terminal.
    """
    with tqdm(total=num_steps, initial=at.step, desc=label, disable=None if progress else True) as bar:
        while at.step < num_steps and not at.ending.reason:
            before = at.step
            at = _advanced(at, window, after_window)
            bar.update(at.step - before)
            bar.set_postfix_str(describe(at, at.step - before), refresh=False)
    return at if at.ending.reason else replace(at, ending=Ending(f"all {at.step} steps were done"))


def _advanced(at: S, window: Callable[[S], S], after_window: Callable[[S], S]) -> S:
    before = at.copied()
    try:
        after = window(at)
    except KeyboardInterrupt:
        at.overwrite(before)
        return _interrupted(at)
    if after.ending.bad_step is not None:
        at.overwrite(before)
        return after
    try:
        return after_window(after)
    except KeyboardInterrupt:
        return _interrupted(after)


def _interrupted(at: S) -> S:
    return replace(at, ending=Ending(f"interrupted after {at.step} steps", interrupted=True))


def first_bad(records: np.ndarray, params: tuple[torch.Tensor, ...]) -> int | None:
    """The first step of a window with a record that is not finite; the last step if only a parameter is not.

    Args:
        records: of the window, ``[steps, numbers]``.
        params: the parameters after the window.
    """
    bad = np.flatnonzero(~np.isfinite(records).all(1))
    if bad.size:
        return int(bad[0])
    return None if all(bool(torch.isfinite(value).all()) for value in params) else len(records) - 1
