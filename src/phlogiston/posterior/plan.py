"""``Plan``: which methods to try on a model, in which order, and why; and what came of it."""

from __future__ import annotations

import dataclasses
import html
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from phlogiston.posterior.verdict import COLOURS

_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Step:
    """One method of a plan.

    Args:
        name: the method's registered name.
        call: the line that makes it.
        reason: why it stands here, in plain words, with the numbers that decided it.
        method: the method with its settings; None in a plan that was read from a file.
        against: the checks whose failure this step answers; where one of them fails, it comes next. None: any.
        rewrite: whether the model is first given other coordinates, by ``ph.reparam``.
    """

    name: str
    call: str
    reason: str
    method: Any = None
    against: tuple[str, ...] = ()
    rewrite: bool = False

    @property
    def line(self) -> str:
        """The line of code that takes this step alone."""
        return f"ph.infer({'ph.reparam(model)' if self.rewrite else 'model'}, {self.call})"


def step(method: Any, name: str, reason: str, *, against: Sequence[str] = (), rewrite: bool = False) -> Step:
    """A step with a method, whose call shows the settings that differ from the defaults."""
    return Step(name=name, call=call_of(method), reason=reason, method=method, against=tuple(against), rewrite=rewrite)


def call_of(method: Any) -> str:
    """A method as it would be written, without the settings that are as by default."""
    shown = []
    for setting in dataclasses.fields(method):
        value = getattr(method, setting.name)
        if setting.default is dataclasses.MISSING or value != setting.default:
            inner = dataclasses.is_dataclass(value) and not isinstance(value, type)
            shown.append(f"{setting.name}={call_of(value) if inner else repr(value)}")
    return f"ph.{type(method).__name__}({', '.join(shown)})"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a step.

    Args:
        step: its place in the plan, from 0.
        name: of the method.
        verdict: what ``diagnose`` said of the draws; "failed" where there are none.
        outcome: the gravest finding, or the error, in a line.
        seconds: of the run.
    """

    step: int
    name: str
    verdict: str
    outcome: str
    seconds: float

    @property
    def is_refuted(self) -> bool:
        """Whether its verdict calls for the next step."""
        return self.verdict != "trust"


@dataclass(frozen=True, kw_only=True)
class Plan(Sequence[Step]):
    """The methods for a model, the first choice first; it is the sequence of its steps, and prints as a table.

    Args:
        model: the program's name.
        facts: what the choice was made from: name -> number and meaning.
        steps: what to try, in order.
        advice: a line to write that would make the model easier; "" if none is known.
        trials: what came of the steps that were taken, in the order in which they were.
        taken: the trial whose draws the result holds; -1 before a run.

    Example:
        >>> def coin():
        ...     p = pyro.sample("p", dist.Beta(2.0, 3.0))
        ...     pyro.sample("heads", dist.Binomial(10, p))
        >>> plan = ph.recommend(ph.Model(coin).observe(heads=7.0))
        >>> plan.first.name, [step.name for step in plan][-1]
        ('importance', 'smc')
    """

    model: str
    facts: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    advice: str = ""
    trials: tuple[Trial, ...] = ()
    taken: int = -1

    @property
    def first(self) -> Step:
        """The first choice."""
        return self.steps[0]

    def __getitem__(self, index: Any) -> Any:
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def tried(self, trial: Trial) -> Plan:
        """The plan with one more trial."""
        return replace(self, trials=(*self.trials, trial))

    @property
    def story(self) -> str:
        """What was tried, and what the result holds, in a line; "" before a run."""
        if not self.trials:
            return ""
        outcomes = [f"{t.name!r}: {t.verdict}" + (f" ({t.outcome})" if t.is_refuted else "") for t in self.trials]
        end = self.trials[self.taken]
        last = f"; the result is that of {end.name!r}" if len(self.trials) > 1 else ""
        return "; ".join(outcomes) + last + (", the best of them" if len(self.trials) > 1 and end.is_refuted else "")

    def __str__(self) -> str:
        width = max((len(name) for name in self.facts), default=0)
        lines = [f"Plan for {self.model}", ""]
        lines += [_filled(f"  {name:<{width}}  ", text) for name, text in self.facts.items()]
        for number, each in enumerate(self.steps, 1):
            lines += ["", _filled(f"  {number}. ", f"{each.name}: {each.reason}"), _filled("     ", each.line)]
            lines += [_filled("     -> ", outcome) for outcome in self._outcomes(number - 1)]
        if self.advice:
            lines += ["", _filled("  advice  ", self.advice)]
        if self.story:
            lines += ["", _filled("  tried   ", self.story)]
        return "\n".join(lines)

    def _outcomes(self, place: int) -> list[str]:
        """The outcomes of a step, in words; none before it was taken."""
        return [
            f"{t.verdict}: {t.outcome} ({t.seconds:.1f} s)" + ("; taken" if t is self.trials[self.taken] else "")
            for t in self.trials
            if t.step == place
        ]

    def __repr__(self) -> str:
        return f"Plan({self.model}: {', '.join(each.name for each in self.steps)})"

    def rows(self) -> list[list[str]]:
        """One row per step: its number, method, reason, line, and what came of it."""
        return [
            [str(number), each.name, each.reason, each.line, "; ".join(self._outcomes(number - 1)) or "not tried"]
            for number, each in enumerate(self.steps, 1)
        ]

    def _repr_html_(self) -> str:
        facts = "".join(
            f'<tr><td>{html.escape(name)}</td><td style="text-align:left">{html.escape(text)}</td></tr>'
            for name, text in self.facts.items()
        )
        head = "".join(f"<th>{name}</th>" for name in ("", "method", "why", "line", "tried"))
        steps = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in row) + "</tr>"
            for row in self.rows()
        )
        advice = f"<p>{html.escape(self.advice)}</p>" if self.advice else ""
        title = f'<p style="color:{COLOURS["trust"]};font-weight:600">Plan for {html.escape(self.model)}</p>'
        return f"{title}<table>{facts}</table><table><tr>{head}</tr>{steps}</table>{advice}"

    def as_json(self) -> str:
        """Everything but the methods themselves, as text."""
        kept = replace(self, steps=tuple(replace(each, method=None) for each in self.steps), facts=dict(self.facts))
        return json.dumps(dataclasses.asdict(kept))

    @staticmethod
    def from_json(text: str) -> Plan:
        """The inverse of ``as_json``."""
        stored = json.loads(text)
        steps = tuple(Step(**{**each, "against": tuple(each["against"])}) for each in stored["steps"])
        return Plan(**{**stored, "steps": steps, "trials": tuple(Trial(**each) for each in stored["trials"])})


def _filled(head: str, text: str) -> str:
    indent = " " * len(head)
    return textwrap.fill(
        text, _WIDTH, initial_indent=head, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
