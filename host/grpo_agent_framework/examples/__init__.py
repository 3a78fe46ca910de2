"""The usage guide's examples: ``python -m grpo_agent_framework.examples.quick_start``."""
