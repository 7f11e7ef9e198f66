"""What a judgement of draws consists of: checks, findings, and one verdict."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from phlogiston.errors import ConvergenceWarning, PhlogistonWarning

Verdict = Literal["trust", "caution", "do not use"]
Severity = Literal["caution", "do not use"]

COLOURS = {"trust": "#1b7f4b", "caution": "#b26a00", "do not use": "#b3261e"}
_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One reason not to believe the draws yet, and what to do about it.

    Args:
        message: what was found, with the number and its limit, in one clause.
        action: what to do next.
        category: the warning that it becomes.
        number: what was measured; NaN where it is no number.
        threshold: the limit that it broke; NaN where there is none.
        site: the site, or component of one, that is worst; "" where the finding is about all.
        meaning: what it says of the draws, in plain words.
        severity: whether the draws can be used with care, or not at all.
    """

    message: str
    action: str
    category: type[PhlogistonWarning] = ConvergenceWarning
    number: float = float("nan")
    threshold: float = float("nan")
    site: str = ""
    meaning: str = ""
    severity: Severity = "caution"

    def __str__(self) -> str:
        return f"{self.message}; {self.action}"


@dataclass(frozen=True)
class Check:
    """The outcome of one diagnostic check.

    Args:
        name: of the check, such as "R-hat".
        outcome: what was found, with the limit, or why it could not be judged.
        finding: what is wrong, where something is.
        judged: whether the check could be made.
    """

    name: str
    outcome: str
    finding: Finding | None = None
    judged: bool = True

    @property
    def state(self) -> str:
        """ "fine", "not judged", or the severity of its finding."""
        return "not judged" if not self.judged else "fine" if self.finding is None else self.finding.severity


def failed(name: str, finding: Finding) -> Check:
    """A failed check, with its finding."""
    return Check(name, finding.message, finding)


def skipped(name: str, reason: str) -> Check:
    """A check that could not be made, and why."""
    return Check(name, reason, judged=False)


@dataclass(frozen=True)
class Diagnosis(Sequence[Finding]):
    """Whether to believe a posterior: every check that was made, and a verdict.

    It is the sequence of its findings, so ``if post.diagnose():`` reads "if anything is wrong"; ``print`` shows all.

    Args:
        checks: everything that was looked at, or could not be.

    Example:
        >>> model = ph.Model(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
        >>> report = ph.infer(model, "nuts", seed=0).diagnose()
        >>> report.verdict, len(report), report.checks[0].name
        ('trust', 0, 'stuck chains')
    """

    checks: tuple[Check, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, the gravest first."""
        findings = [check.finding for check in self.checks if check.finding is not None]
        return tuple(sorted(findings, key=lambda finding: finding.severity != "do not use"))

    @property
    def verdict(self) -> Verdict:
        """ "trust" where nothing was found, else the gravest finding's severity."""
        return self.findings[0].severity if self.findings else "trust"

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | Sequence[Finding]:
        return self.findings[index]

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def headline(self) -> str:
        """The verdict with the number of findings and checks."""
        made = sum(check.judged for check in self.checks)
        count = len(self)
        outcome = "nothing wrong" if not count else f"{count} finding{'s' * (count > 1)}"
        return f"{self.verdict}: {outcome} in {made} check{'s' * (made != 1)}"

    def __str__(self) -> str:
        lines = [self.headline]
        for finding in self:
            body = f"{finding.severity}: {finding.message}."
            parts = [body, finding.meaning, f"Next: {finding.action}."]
            lines += [
                textwrap.fill(part, _WIDTH, initial_indent="  " if i == 0 else "    ", subsequent_indent="    ")
                for i, part in enumerate(parts)
                if part
            ]
        for state, title in (("fine", "fine"), ("not judged", "not judged")):
            rest = [f"{check.name} ({check.outcome})" for check in self.checks if check.state == state]
            if rest:
                text = f"{title}: {', '.join(rest)}"
                lines.append(textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    "))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Diagnosis({self.headline})"

    def _repr_html_(self) -> str:
        head = f'<p style="color:{COLOURS[self.verdict]};font-weight:600">{html.escape(self.headline)}</p>'
        rows = "".join(
            f"<tr><td>{html.escape(check.name)}</td><td>{html.escape(check.state)}</td>"
            f'<td style="text-align:left">{html.escape(check.outcome)}{_advice(check.finding)}</td></tr>'
            for check in self.checks
        )
        return f"{head}<table><tr><th>check</th><th>state</th><th>found</th></tr>{rows}</table>"


def _advice(finding: Finding | None) -> str:
    if finding is None:
        return ""
    parts = [part for part in (finding.meaning, f"Next: {finding.action}.") if part]
    return "".join(f"<br><small>{html.escape(part)}</small>" for part in parts)
