"""Templates that ``grpo-host new`` writes. Data only."""
