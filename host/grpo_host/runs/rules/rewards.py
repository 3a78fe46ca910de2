"""What goes wrong in rewards: none that differs, none that rises, one that decides alone."""

from __future__ import annotations

from grpo_host.runs.rules.window import HOLLOW_STEPS, RISE, STEPS, Said, Window, values

TAUGHT_NOTHING = 0.75
"""More than this share of groups without a difference are a waste."""
FULL = 0.02
"""A reward whose spread is below this has the same value for all."""
DOMINATES = 0.95
"""A reward with more than this share of all rewards' spread decides alone."""
FALL = 0.5
"""A reward below this share of the best so far has fallen."""


def no_difference(window: Window) -> Said | None:
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


def few_differ(window: Window) -> Said | None:
    share = window.mean("frac_reward_zero_std")
    if share is None or not TAUGHT_NOTHING < share < 1.0:
        return None
    return Said(
        f"in {share:.0%} of the groups all episodes got the same reward, and taught nothing",
        "Play such groups again (training.dynamic_sampling), take tasks that are neither too hard nor too "
        "easy (training.curriculum), or raise training.group_size",
    )


def fall(window: Window) -> Said | None:
    now, best = window.mean("reward"), window.best
    if now is None or best is None or best <= 0 or now >= FALL * best or best - now <= RISE / 2:
        return None
    return Said(
        f"the reward fell to {now:.2f}, from {best:.2f} at its best",
        "Lower training.learning_rate, hold the policy with training.beta, or keep the best weights with "
        "training.early_stopping",
    )


def hollow(window: Window) -> Said | None:
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


def easy_part(window: Window) -> Said | None:
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


def dominates(window: Window) -> Said | None:
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


def flat(window: Window) -> Said | None:
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
