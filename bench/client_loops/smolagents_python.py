"""smolagents: a ToolCallingAgent. It forces a tool unless it is told not to."""

import json
import os

from smolagents import OpenAIModel, ToolCallingAgent, tool


@tool
def weather(town: str) -> str:
    """The weather of a town.

    Args:
        town: The town.
    """
    return town[::-1]


model = OpenAIModel("desk", api_base=os.environ["BASE_URL"], api_key="none", tool_choice="auto")
agent = ToolCallingAgent(tools=[weather], model=model, max_steps=5, verbosity_level=0)
print(json.dumps({"chat": agent.run("How is the weather?")}))
