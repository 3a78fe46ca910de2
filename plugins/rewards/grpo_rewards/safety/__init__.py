"""Reward what is safe and appropriate."""

from __future__ import annotations

from grpo_rewards.safety.reward import SafetyReward

__all__ = ["SafetyReward"]
