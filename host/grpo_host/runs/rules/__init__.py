"""What the metrics of a run are looked at for, rule by rule."""

from __future__ import annotations

from grpo_host.runs.rules import failures, policy, replies, rewards
from grpo_host.runs.rules.window import Rule

AT_ONCE = (Rule("nonfinite", "error", ("grad_norm", "update/skipped_nonfinite"), policy.nonfinite),)
"""Rules that one step is enough for."""
RULES = (
    Rule("cut", "warning", ("rollouts/cut",), replies.cut),
    Rule("entropy", "warning", ("entropy",), policy.entropy),
    Rule("length", "warning", ("rollouts/tokens_per_turn",), replies.shorter),
    Rule("growth", "warning", ("rollouts/tokens_per_turn",), replies.longer),
    Rule("duplicates", "warning", ("rollouts/duplicates",), replies.duplicates),
    Rule("repetition", "warning", ("rollouts/repetition",), replies.repetition),
    Rule("tool_errors", "warning", ("rollouts/tool_errors", "rollouts/tool_calls"), failures.tool_errors),
    Rule("tool_use", "warning", ("rollouts/tool_calls",), failures.tool_use),
    Rule("no_difference", "warning", ("frac_reward_zero_std",), rewards.no_difference),
    Rule("few_differ", "info", ("frac_reward_zero_std",), rewards.few_differ),
    Rule("failed", "error", ("rollouts/failed",), failures.failed),
    Rule("reward_errors", "error", ("rollouts/reward_errors",), failures.reward_errors),
    Rule(
        "drift",
        "warning",
        ("sampling/sampling_logp_difference/mean", "sampling/importance_sampling_ratio/mean"),
        policy.drift,
    ),
    Rule("far", "warning", ("kl",), policy.far),
    Rule("clipped", "warning", ("clip_ratio/region_mean",), policy.clipped),
    Rule("invisible_update", "warning", ("weights/visible_update",), policy.invisible),
    Rule("gradient", "warning", ("grad_norm",), policy.gradient),
    Rule("reward_fall", "warning", ("reward",), rewards.fall),
    Rule("hollow_reward", "warning", ("reward", "rollouts/success"), rewards.hollow),
    Rule("dominates", "warning", ("reward",), rewards.dominates),
    Rule("easy_part", "info", ("reward",), rewards.easy_part),
    Rule("flat", "info", ("reward",), rewards.flat),
    Rule("slower", "info", ("rollouts/tokens_per_second",), failures.slower),
    Rule("forks", "info", ("rollouts/forks",), replies.forks),
)
"""Rules that ``STEPS`` steps in a row are asked for; what may be the cause of another stands before it."""
