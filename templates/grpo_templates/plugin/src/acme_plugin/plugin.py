"""What the plugin offers: each hook returns names for agent.yaml, and what makes the named things.

The host calls the hooks in every process when it starts, so the modules are imported inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_sdk import hookimpl


# if reward
@hookimpl
def grpo_rewards() -> Mapping[str, Any]:
    from acme_plugin.reward import right_number

    return {"right_number": right_number}


# end
# if tool
@hookimpl
def grpo_tools() -> Mapping[str, Any]:
    from acme_plugin.tool import add_numbers

    return {"add_numbers": add_numbers}


# end
# if environment
@hookimpl
def grpo_environments() -> Mapping[str, Any]:
    from acme_plugin.environment import Sums

    return {"sums": Sums}


# end
# if strategy
@hookimpl
def grpo_strategies() -> Mapping[str, Any]:
    from acme_plugin.strategy import short_answers

    return {"short_answers": short_answers}


# end
# if backend
@hookimpl
def grpo_backends() -> Mapping[str, Any]:
    from acme_plugin.backend import Adder

    return {"adder": Adder}


# end
