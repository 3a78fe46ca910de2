"""A plugin of grpo-agent-framework."""
