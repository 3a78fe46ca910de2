"""Says in words what a run's metrics show to go wrong: since which step, and what to do about it.

One set of rules, for the warnings of a run that trains and for the diagnosis of one that is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from grpo_host.runs.rules import AT_ONCE, RULES
from grpo_host.runs.rules.window import RISE, STEPS, Line, Rule, Severity, Window, mean


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that goes wrong."""

    rule: str
    """For programs."""
    severity: Severity
    step: int
    """Where it began."""
    noticed: int
    """The step after which it was certain."""
    text: str
    """What."""
    advice: str
    """What to do."""
    series: tuple[str, ...] = ()
    """The metrics that show it."""

    @property
    def message(self) -> str:
        """As a sentence for the terminal."""
        when = f"step {self.step}" if self.step == self.noticed else f"steps {self.step} to {self.noticed}"
        return f"{when}: {self.text}. {self.advice}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "series": list(self.series)}


@dataclass
class Diagnosis:
    """Looks at one line of metrics after another, and says each thing once."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Of the rewards; without them no reward is said to decide alone."""
    findings: list[Finding] = field(default_factory=list)
    """All so far."""
    _first: list[Line] = field(default_factory=list)
    _last: list[Line] = field(default_factory=list)
    _steps: int = 0
    _best: float | None = None

    def look(self, line: Line) -> list[Finding]:
        """What ``line``, the next step's, shows and was not said before."""
        self._steps += 1
        if len(self._first) < STEPS:
            self._first.append(line)
        self._last = [*self._last, line][-STEPS:]
        window = Window(self._first, self._last, self._steps, self._best, self.weights)
        said = {finding.rule for finding in self.findings}
        new = [found for found in _look(window) if found.rule not in said]
        reward = mean(self._last, "reward") if len(self._last) == STEPS else None
        if reward is not None:
            self._best = reward if self._best is None else max(self._best, reward)
        self.findings += new
        return new

    def warnings(self) -> list[dict[str, Any]]:
        """For report.json."""
        return [
            {"kind": found.rule, "step": found.noticed, "message": found.message} for found in self.findings
        ]


def diagnose(
    lines: Iterable[Line],
    evaluations: Sequence[Mapping[str, Any]] = (),
    weights: Mapping[str, float] | None = None,
) -> list[Finding]:
    """All that goes wrong in a run: errors first, then what began first.

    ``evaluations``: as ``Run.evaluations`` gives them.
    """
    lines = list(lines)
    diagnosis = Diagnosis(weights or {})
    for line in lines:
        diagnosis.look(line)
    hollow = any(item.rule == "hollow_reward" for item in diagnosis.findings)
    found = [*diagnosis.findings, *_measured(evaluations, lines, hollow)]
    order = ("error", "warning", "info")
    return sorted(found, key=lambda item: (order.index(item.severity), item.step))


def _look(window: Window) -> Iterable[Finding]:
    last = window.last[-1]["step"]
    for rule in AT_ONCE:
        if said := rule.look(window):
            yield Finding(rule.name, rule.severity, last, last, *said, rule.series)
    if len(window.last) < STEPS:
        return
    for rule in RULES:
        if said := rule.look(window):
            yield Finding(rule.name, rule.severity, _began(rule, window), last, *said, rule.series)


def _began(rule: Rule, window: Window) -> int:
    """The first of the last steps that shows it by itself; of a mean that none does, the first."""
    alone = (line["step"] for line in window.last if rule.look(window._replace(last=[line])))
    return int(next(alone, window.last[0]["step"]))


def _measured(
    evaluations: Sequence[Mapping[str, Any]], lines: Sequence[Line], hollow: bool
) -> Iterable[Finding]:
    """What held-out measurements show, beside the training reward and whether that is ``hollow``."""
    known = [item for item in evaluations if item.get("reward") is not None and item.get("step") is not None]
    for split in {item["split"] for item in known}:
        yield from _over_optimised([item for item in known if item["split"] == split], lines)
    by_label = {item["label"]: item for item in known}
    before, after = by_label.get("before"), by_label.get("after")
    if before is None or after is None or after["high"] is None:
        return
    yield from _hollow_gain(before, after, hollow)
    if after["reward"] == before["reward"] and after["low"] == after["high"]:
        yield Finding(
            "no_gain", "info", after["step"], after["step"],
            f"the held-out reward is {after['reward']:.3f} after the training, as before it",
            "If nothing above says why, train for more steps or raise training.learning_rate",
            ("reward",),
        )  # fmt: skip
    elif after["high"] >= before["low"] and after["low"] <= before["high"]:
        yield Finding(
            "no_gain", "info", after["step"], after["step"],
            f"the held-out reward, {before['reward']:.3f} before and {after['reward']:.3f} after, may have "
            "moved by chance alone: the intervals overlap",
            "Train for more steps, or measure more episodes (evaluation.episodes)",
            ("reward",),
        )  # fmt: skip


def _hollow_gain(before: Mapping[str, Any], after: Mapping[str, Any], hollow: bool) -> Iterable[Finding]:
    told = [item.get(name) for item in (before, after) for name in ("success", "success_low", "success_high")]
    if None in told or after["low"] <= before["high"]:
        return
    clear = after["success_high"] < before["success_low"]  # few episodes cannot tell, but both together can
    if not clear and (not hollow or before["success"] - after["success"] <= RISE):
        return
    yield Finding(
        "hollow_gain", "error", after["step"], after["step"],
        f"the held-out reward rose from {before['reward']:.3f} to {after['reward']:.3f}, and success fell "
        f"from {before['success']:.0%} to {after['success']:.0%}: the rewards are gamed",
        "Compare the transcripts before and after: what is rewarded that is no success? Lower the weight of "
        "that reward, or gate it by success",
        ("reward", "rollouts/success"),
    )  # fmt: skip


def _over_optimised(measured: Sequence[Mapping[str, Any]], lines: Sequence[Line]) -> Iterable[Finding]:
    if len(measured) < 2:
        return
    best, last = max(measured[:-1], key=lambda item: item["reward"]), measured[-1]
    fell = best["reward"] - last["reward"]
    within = last["high"] is not None and best["low"] is not None and last["high"] >= best["low"]
    if fell <= RISE / 2 or within:
        return
    at_best = mean(_around(lines, best["step"]), "reward")
    at_last = mean(_around(lines, last["step"]), "reward")
    rose = at_best is not None and at_last is not None and at_last >= at_best
    told = f", while the training reward rose from {at_best:.2f} to {at_last:.2f}" if rose else ""
    yield Finding(
        "over_optimised" if rose else "worse", "error", best["step"], last["step"],
        f"the {last['split']} reward fell from {best['reward']:.3f} to {last['reward']:.3f}{told}",
        "What is learnt does not hold on other tasks. Stop at the best measurement "
        "(training.early_stopping), train on more tasks, or hold the policy with training.beta"
        if rose
        else "Lower training.learning_rate, or stop at the best measurement (training.early_stopping)",
        ("reward",),
    )  # fmt: skip


def _around(lines: Sequence[Line], step: int) -> Sequence[Line]:
    """The steps about ``step``: the last up to it, or the first if it is the beginning."""
    upto = [line for line in lines if line["step"] <= step]
    return upto[-STEPS:] if len(upto) >= STEPS else lines[:STEPS]
