"""What the metrics of a run are looked at for, rule by rule."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Severity = Literal["info", "warning", "error"]
Line = Mapping[str, Any]
"""A step's line of metrics.jsonl."""

STEPS = 3
"""A rule is about so many steps in a row; what collapses is compared with the first so many."""
CUT = 0.5
"""More than this share of the replies cut at ``sampling.max_tokens`` are too many."""
ENTROPY = 0.1
"""Entropy below this share of the first steps' has collapsed."""
LENGTH = 0.25
"""The same of the tokens a reply."""
GROWTH = 3.0
"""Replies of more than this times the first steps' tokens have grown too long."""
DUPLICATES = 0.5
"""More than this share of episodes that repeat another of their group are too many."""
TAUGHT_NOTHING = 0.75
"""More than this share of groups without a difference are a waste."""
REPETITION = 0.3
"""More than this share of the replies said again within a reply is a loop."""
FAR = 0.5
"""A token's divergence from the first model of more than this, and ``GRADIENT`` times the first, is far."""
SLOWER = 2.0
"""A step of more than this times the first steps' seconds has become slow."""
FULL = 0.02
"""A reward whose spread is below this has the same value for all."""
TOOL_ERRORS = 0.3
"""More than this share of failed tool calls are too many."""
FAILED = 0.2
"""The same of failed episodes."""
REWARD_ERRORS = 0.05
"""The same of episodes for which a reward failed: it leaves out what it cannot read, which is no chance."""
DOMINATES = 0.95
"""A reward with more than this share of all rewards' spread decides alone."""
DRIFT = 0.1
"""Trainer and engine may differ by so much, in a token's log-prob or in the mean ratio."""
CLIPPED = 0.2
"""More than this share of the tokens clipped are too many."""
VISIBLE = 0.5
"""Less than this share of the adapter's change in the weights is too little."""
GRADIENT = 10.0
"""A gradient of more than this times the first steps' norm is about to diverge."""
FALL = 0.5
"""A reward below this share of the best so far has fallen."""
RISE = 0.1
"""By how much a reward has to rise, of what it could, to have risen."""
HOLLOW_STEPS = 6
"""So many steps before a reward is said to rise without success."""


class Window(NamedTuple):
    """What a rule looks at."""

    first: Sequence[Line]
    last: Sequence[Line]
    steps: int
    """How many there were."""
    best: float | None
    """The highest mean reward of ``STEPS`` steps so far."""
    weights: Mapping[str, float]
    """Of the rewards, by name."""

    def mean(self, name: str) -> float | None:
        """Over the last steps; None if one of them does not say."""
        return mean(self.last, name)

    def moved(self, name: str) -> tuple[float, float] | None:
        """What it was in the first steps, and is in the last."""
        before, now = mean(self.first, name), mean(self.last, name)
        return None if before is None or now is None else (before, now)

    def share(self, part: str, whole: str) -> float | None:
        """What ``part`` is of ``whole``, summed over the last steps."""
        parts, wholes = values(self.last, part), values(self.last, whole)
        return None if not parts or not wholes or not sum(wholes) else sum(parts) / sum(wholes)


class Said(NamedTuple):
    """What a rule has found."""

    text: str
    advice: str


class Rule(NamedTuple):
    """Looks for one thing in a window of steps."""

    name: str
    severity: Severity
    series: tuple[str, ...]
    look: Callable[[Window], Said | None]


def _nonfinite(window: Window) -> Said | None:
    if not window.last[-1].get("update/skipped_nonfinite"):
        return None
    return Said(
        "the gradient was not finite, so the step made no update",
        "Lower training.learning_rate or training.max_grad_norm; three such steps in a row end the run",
    )


def _cut(window: Window) -> Said | None:
    share = window.mean("rollouts/cut")
    if share is None or share <= CUT:
        return None
    return Said(
        f"{share:.0%} of the replies were cut at sampling.max_tokens. They are scored as they stand, and "
        "the policy never learns to end one",
        "Raise sampling.max_tokens, or add a reward for short replies (length)",
    )


def _no_difference(window: Window) -> Said | None:
    shares = values(window.last, "frac_reward_zero_std")
    if shares is None or min(shares) < 1.0:
        return None
    reward = window.mean("reward")
    told = "" if reward is None else f" (mean reward {reward:.2f})"
    ends = (values(window.last, "rollouts/reward_p10"), values(window.last, "rollouts/reward_p90"))
    constant = ends[0] is not None and ends[0] == ends[1] and ends[0][0] not in (0.0, 1.0)
    look = "Each episode got the same, whatever it said: see in a group whether a reward reads the answer. "
    return Said(
        f"in no group did the episodes' rewards differ{told}, so there was nothing to learn",
        f"{look if constant else ''}If all episodes fail, take easier tasks or begin with "
        "training.warm_start; if all succeed, stop here or take harder tasks; if neither, raise "
        "training.group_size or sampling.temperature",
    )


def _few_differ(window: Window) -> Said | None:
    share = window.mean("frac_reward_zero_std")
    if share is None or not TAUGHT_NOTHING < share < 1.0:
        return None
    return Said(
        f"in {share:.0%} of the groups all episodes got the same reward, and taught nothing",
        "Play such groups again (training.dynamic_sampling), take tasks that are neither too hard nor too "
        "easy (training.curriculum), or raise training.group_size",
    )


def _entropy(window: Window) -> Said | None:
    moved = window.moved("entropy")
    if moved is None or moved[1] >= ENTROPY * moved[0]:
        return None
    return Said(
        f"the policy's entropy fell from {moved[0]:.3f} in the first steps to {moved[1]:.3f}: it says "
        "nearly the same each time and tries nothing new",
        "If the reward is not yet where it should be, lower training.learning_rate, or hold the policy with "
        "training.beta",
    )


def _shorter(window: Window) -> Said | None:
    moved = window.moved("rollouts/tokens_per_turn")
    if moved is None or moved[1] >= LENGTH * moved[0]:
        return None
    return Said(
        f"replies shrank from {moved[0]:.0f} tokens in the first steps to {moved[1]:.0f}",
        "Read some in trajectories.jsonl: if they are worth less than their reward says, add a reward that "
        "short replies do not satisfy, or lower training.learning_rate",
    )


def _longer(window: Window) -> Said | None:
    moved = window.moved("rollouts/tokens_per_turn")
    if moved is None or moved[1] <= GROWTH * moved[0]:
        return None
    return Said(
        f"replies grew from {moved[0]:.0f} tokens in the first steps to {moved[1]:.0f}",
        "Read some: if a reward pays for length, lower its weight, or add one for short replies (length)",
    )


def _duplicates(window: Window) -> Said | None:
    share = window.mean("rollouts/duplicates")
    if share is None or share <= DUPLICATES:
        return None
    return Said(
        f"{share:.0%} of the episodes say word for word what another of their group says, so the group is "
        "smaller than it looks",
        "Raise sampling.temperature, or lower training.learning_rate; if the answers are right, take harder "
        "tasks",
    )


def _repetition(window: Window) -> Said | None:
    share = window.mean("rollouts/repetition")
    if share is None or share <= REPETITION:
        return None
    return Said(
        f"{share:.0%} of what a reply says it has said before: replies go round in a loop",
        "Read the longest. Lower training.learning_rate, hold the policy with training.beta, or raise "
        "sampling.temperature; if a reward pays for length, lower its weight",
    )


def _tool_errors(window: Window) -> Said | None:
    share = window.share("rollouts/tool_errors", "rollouts/tool_calls")
    if share is None or share <= TOOL_ERRORS:
        return None
    if share == 1.0:
        return Said(
            "every tool call failed",
            "Look at the error of one: a tool that never works is broken, or lacks what it needs (a service, "
            "a key, a file, time: agent.limits.tool_seconds). If only the arguments are wrong, describe them "
            "better or add demonstrations",
        )
    return Said(
        f"{share:.0%} of the tool calls failed",
        "Look at trajectories with a tool error: if the calls are wrong, describe the arguments better or "
        "add demonstrations; if the tool breaks or is too slow, mend it or raise agent.limits.tool_seconds",
    )


def _tool_use(window: Window) -> Said | None:
    moved = window.moved("rollouts/tool_calls")
    if moved is None or moved[0] == 0 or moved[1] >= LENGTH * moved[0]:
        return None
    return Said(
        f"the policy hardly calls tools any more: {moved[0]:.0f} calls a step at first, {moved[1]:.0f} now",
        "If the tasks need the tools, add a reward that answers without them cannot get; guessing pays now",
    )


def _failed(window: Window) -> Said | None:
    share = window.share("rollouts/failed", "rollouts/episodes")
    if share is None or share <= FAILED:
        return None
    return Said(
        f"{share:.0%} of the episodes failed and taught nothing",
        "Look at the trajectories with the status failed: each has the cause and its line in error",
    )


def _reward_errors(window: Window) -> Said | None:
    share = window.share("rollouts/reward_errors", "rollouts/episodes")
    if share is None or share <= REWARD_ERRORS:
        return None
    return Said(
        f"a reward failed for {share:.0%} of the episodes, which then taught nothing",
        "Look at the trajectories without a reward: each has the cause and its line. Mend the reward, or let "
        "it give 0 to what it cannot read",
    )


def _drift(window: Window) -> Said | None:
    fresh = [line for line in window.last if not line.get("rollouts/staleness")]
    if len(fresh) < len(window.last):
        # Sampled ahead: only what the newest weights sampled tells engine and trainer apart.
        engine = _drift(window._replace(last=fresh)) if fresh else None
        return engine or _stale(window)
    told = _apart(window)
    if told is None:
        return None
    return Said(
        f"the engine that samples and the trainer disagree: {told}",
        "Use one precision for both (model.dtype), and see that the backend samples at the temperature "
        "alone; until then keep training.importance_sampling on",
    )


def _stale(window: Window) -> Said | None:
    told = _apart(window)
    if told is None:
        return None
    return Said(
        f"the weights that sample ahead are far from the trainer's: {told}",
        "Lower training.learning_rate, or training.max_staleness: what training.importance_sampling_cap "
        "cuts off is not learnt",
    )


def _apart(window: Window) -> str | None:
    """How far the probabilities of sampling are from those of training, if that is too far."""
    gap = window.mean("sampling/sampling_logp_difference/mean")
    ratio = window.mean("sampling/importance_sampling_ratio/mean")
    apart = gap is not None and gap > DRIFT
    if not apart and (ratio is None or abs(ratio - 1) <= DRIFT):
        return None
    told = [f"by {gap:.2f} in a token's log-prob"] if apart else []
    told += [f"with a mean ratio of {ratio:.2f}"] if ratio is not None else []
    return ", ".join(told)


def _far(window: Window) -> Said | None:
    moved = window.moved("kl")
    if moved is None or moved[1] <= max(FAR, GRADIENT * moved[0]):
        return None
    return Said(
        f"the policy has gone far from the first model: a divergence of {moved[1]:.2f} a token, "
        f"{moved[0]:.2g} in the first steps",
        "Raise training.beta, or lower training.learning_rate; see in the held-out transcripts what it still "
        "can",
    )


def _clipped(window: Window) -> Said | None:
    share = window.mean("clip_ratio/region_mean")
    if share is None or share <= CLIPPED:
        return None
    return Said(
        f"{share:.0%} of the tokens were clipped, so they taught nothing more",
        "Lower training.learning_rate, or make fewer updates of one batch",
    )


def _invisible(window: Window) -> Said | None:
    share = window.mean("weights/visible_update")
    if share is None or share >= VISIBLE:
        return None
    return Said(
        f"the weights that sample show {share:.0%} of what was learnt: the updates are too small for them",
        "Set model.dtype: float32, or raise training.learning_rate",
    )


def _gradient(window: Window) -> Said | None:
    moved = window.moved("grad_norm")
    if moved is None or moved[0] <= 0 or moved[1] <= max(1.0, GRADIENT * moved[0]):
        return None
    return Said(
        f"the gradient's norm rose from {moved[0]:.2g} in the first steps to {moved[1]:.2g}",
        "Lower training.learning_rate or training.max_grad_norm before the policy is lost",
    )


def _fall(window: Window) -> Said | None:
    now, best = window.mean("reward"), window.best
    if now is None or best is None or best <= 0 or now >= FALL * best or best - now <= RISE / 2:
        return None
    return Said(
        f"the reward fell to {now:.2f}, from {best:.2f} at its best",
        "Lower training.learning_rate, hold the policy with training.beta, or keep the best weights with "
        "training.early_stopping",
    )


def _hollow(window: Window) -> Said | None:
    reward, success = window.moved("reward"), window.moved("rollouts/success")
    if window.steps < HOLLOW_STEPS or reward is None or success is None:
        return None
    room = max(abs(reward[0]), 1.0 - reward[0], RISE)
    if reward[1] - reward[0] < RISE * room or success[1] > success[0] + RISE / 5:
        return None
    fell = success[0] - success[1] > RISE / 5
    told = "success fell from" if fell else "success did not:"
    return Said(
        f"the reward rose from {reward[0]:.2f} to {reward[1]:.2f}, and {told} {success[0]:.0%}"
        f"{' to' if fell else ', now'} {success[1]:.0%}",
        "Read the best rewarded episodes without success: some reward pays for something else. Lower its "
        "weight, or gate it by success",
    )


def _easy_part(window: Window) -> Said | None:
    if window.steps < HOLLOW_STEPS:
        return None
    means = {name: window.moved(f"rewards/{name}/mean") for name, weight in window.weights.items() if weight}
    rose = {name: now - before for name, moved in means.items() if moved for before, now in [moved]}
    full = [
        name for name, by in rose.items() if by > RISE and (window.mean(f"rewards/{name}/std") or 0.0) < FULL
    ]
    still = [name for name, by in rose.items() if by < RISE / 5 and window.mean(f"rewards/{name}/std")]
    if not full or not still:
        return None
    return Said(
        f"the reward {full[0]} is at its height for all episodes, and {', '.join(still)} has not risen: the "
        "policy has learnt the easy part alone",
        f"{full[0]} teaches nothing more. Give it only with the others (gate it), and see in a group whether "
        f"any episode is better by {still[0]}",
    )


def _dominates(window: Window) -> Said | None:
    spread = {
        name: abs(weight) * value
        for name, weight in window.weights.items()
        if weight and (value := window.mean(f"rewards/{name}/std")) is not None
    }
    total = sum(spread.values())
    if len(spread) < 2 or not total:
        return None
    name, largest = max(spread.items(), key=lambda item: item[1])
    if largest <= DOMINATES * total:
        return None
    others = ", ".join(other for other in spread if other != name)
    return Said(
        f"the reward {name} alone decides which episode is better: {largest / total:.0%} of the spread of "
        f"all rewards; {others} hardly counts",
        f"If that is not meant, lower the weight of {name} or raise the others'",
    )


def _flat(window: Window) -> Said | None:
    reward, differs = window.moved("reward"), window.mean("frac_reward_zero_std")
    if window.steps < 10 * STEPS or reward is None or differs is None or differs == 1.0:
        return None
    if reward[1] - reward[0] > RISE / 2 or (window.best or 0.0) - reward[0] > RISE:
        return None
    return Said(
        f"the reward has not risen in {window.steps} steps: {reward[0]:.2f} at first, {reward[1]:.2f} now",
        "Raise training.learning_rate, or training.group_size; see in a group whether the better episodes "
        "are better",
    )


def _slower(window: Window) -> Said | None:
    before, now = (_seconds(lines) for lines in (window.first, window.last))
    if window.steps < HOLLOW_STEPS or not before or now <= SLOWER * before:
        return None
    replies = window.moved("rollouts/tokens_per_turn")
    longer = replies is not None and replies[1] > RISE * replies[0] + replies[0]
    return Said(
        f"a step takes {now:.0f} s, and took {before:.0f} s at first",
        "Replies have grown longer, which is why: see whether they should"
        if longer
        else "See in Time by phase what takes it: longer contexts, a slow tool or judge, or a busy machine",
    )


def _seconds(lines: Sequence[Line]) -> float:
    """The mean of a step's phases together."""
    return statistics.fmean(
        sum(value for name, value in line.items() if name.startswith("seconds/") and value) for line in lines
    )


def _forks(window: Window) -> Said | None:
    share = window.share("rollouts/forks", "rollouts/episodes")
    if share is None or share <= 1.0:
        return None
    return Said(
        f"an episode has {1 + share:.1f} contexts: the chat template, or the app, rewrites its history",
        "All are trained. If no app means to, take a template that only adds to what there is",
    )


AT_ONCE = (Rule("nonfinite", "error", ("grad_norm", "update/skipped_nonfinite"), _nonfinite),)
"""Rules that one step is enough for."""
RULES = (
    Rule("cut", "warning", ("rollouts/cut",), _cut),
    Rule("entropy", "warning", ("entropy",), _entropy),
    Rule("length", "warning", ("rollouts/tokens_per_turn",), _shorter),
    Rule("growth", "warning", ("rollouts/tokens_per_turn",), _longer),
    Rule("duplicates", "warning", ("rollouts/duplicates",), _duplicates),
    Rule("repetition", "warning", ("rollouts/repetition",), _repetition),
    Rule("tool_errors", "warning", ("rollouts/tool_errors", "rollouts/tool_calls"), _tool_errors),
    Rule("tool_use", "warning", ("rollouts/tool_calls",), _tool_use),
    Rule("no_difference", "warning", ("frac_reward_zero_std",), _no_difference),
    Rule("few_differ", "info", ("frac_reward_zero_std",), _few_differ),
    Rule("failed", "error", ("rollouts/failed",), _failed),
    Rule("reward_errors", "error", ("rollouts/reward_errors",), _reward_errors),
    Rule(
        "drift",
        "warning",
        ("sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/mean"),
        _drift,
    ),
    Rule("far", "warning", ("kl",), _far),
    Rule("clipped", "warning", ("clip_ratio/region_mean",), _clipped),
    Rule("invisible_update", "warning", ("weights/visible_update",), _invisible),
    Rule("gradient", "warning", ("grad_norm",), _gradient),
    Rule("reward_fall", "warning", ("reward",), _fall),
    Rule("hollow_reward", "warning", ("reward", "rollouts/success"), _hollow),
    Rule("dominates", "warning", ("reward",), _dominates),
    Rule("easy_part", "info", ("reward",), _easy_part),
    Rule("flat", "info", ("reward",), _flat),
    Rule("slower", "info", ("rollouts/tokens_per_second",), _slower),
    Rule("forks", "info", ("rollouts/forks",), _forks),
)
"""Rules that ``STEPS`` steps in a row are asked for; what may be the cause of another stands before it."""


def values(lines: Sequence[Line], name: str) -> list[float] | None:
    """What each of ``lines`` says of ``name``; None if one does not say."""
    found = [line.get(name) for line in lines]
    return None if any(value is None for value in found) else found  # type: ignore[return-value]


def mean(lines: Sequence[Line], name: str) -> float | None:
    """Of ``lines``; None if one does not say."""
    found = values(lines, name)
    return statistics.fmean(found) if found else None
