"""What goes wrong in the policy and its updates: entropy, drift, distance, clipping, gradients."""

from __future__ import annotations

from grpo_host.runs.rules.window import Said, Window

ENTROPY = 0.1
"""Entropy below this share of the first steps' has collapsed."""
FAR = 0.5
"""A token's divergence from the first model of more than this, and ``GRADIENT`` times the first, is far."""
DRIFT = 0.1
"""Trainer and engine may differ by so much, in a token's log-prob or in the mean ratio."""
CLIPPED = 0.2
"""More than this share of the tokens clipped are too many."""
VISIBLE = 0.5
"""Less than this share of the adapter's change in the weights is too little."""
GRADIENT = 10.0
"""A gradient of more than this times the first steps' norm is about to diverge."""


def nonfinite(window: Window) -> Said | None:
    if not window.last[-1].get("update/skipped_nonfinite"):
        return None
    return Said(
        "the gradient was not finite, so the step made no update",
        "Lower training.learning_rate or training.max_grad_norm; three such steps in a row end the run",
    )


def entropy(window: Window) -> Said | None:
    moved = window.moved("entropy")
    if moved is None or moved[1] >= ENTROPY * moved[0]:
        return None
    return Said(
        f"the policy's entropy fell from {moved[0]:.3f} in the first steps to {moved[1]:.3f}: it says "
        "nearly the same each time and tries nothing new",
        "If the reward is not yet where it should be, lower training.learning_rate, or hold the policy with "
        "training.beta",
    )


def drift(window: Window) -> Said | None:
    fresh = [line for line in window.last if not line.get("rollouts/staleness")]
    if len(fresh) < len(window.last):
        # Sampled ahead: only what the newest weights sampled tells engine and trainer apart.
        engine = drift(window._replace(last=fresh)) if fresh else None
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


def far(window: Window) -> Said | None:
    moved = window.moved("kl")
    if moved is None or moved[1] <= max(FAR, GRADIENT * moved[0]):
        return None
    return Said(
        f"the policy has gone far from the first model: a divergence of {moved[1]:.2f} a token, "
        f"{moved[0]:.2g} in the first steps",
        "Raise training.beta, or lower training.learning_rate; see in the held-out transcripts what it still "
        "can",
    )


def clipped(window: Window) -> Said | None:
    share = window.mean("clip_ratio/region_mean")
    if share is None or share <= CLIPPED:
        return None
    return Said(
        f"{share:.0%} of the tokens were clipped, so they taught nothing more",
        "Lower training.learning_rate, or make fewer updates of one batch",
    )


def invisible(window: Window) -> Said | None:
    share = window.mean("weights/visible_update")
    if share is None or share >= VISIBLE:
        return None
    return Said(
        f"the weights that sample show {share:.0%} of what was learnt: the updates are too small for them",
        "Set model.dtype: float32, or raise training.learning_rate",
    )


def gradient(window: Window) -> Said | None:
    moved = window.moved("grad_norm")
    if moved is None or moved[0] <= 0 or moved[1] <= max(1.0, GRADIENT * moved[0]):
        return None
    return Said(
        f"the gradient's norm rose from {moved[0]:.2g} in the first steps to {moved[1]:.2g}",
        "Lower training.learning_rate or training.max_grad_norm before the policy is lost",
    )
