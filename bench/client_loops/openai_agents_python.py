"""openai-agents: a Runner, on each protocol; the Responses API is its default."""

import json
import os

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)


@function_tool
def weather(town: str) -> str:
    """The weather of a town."""
    return town[::-1]


def loop(kind):
    client = AsyncOpenAI(base_url=os.environ["BASE_URL"], api_key="none")
    agent = Agent(name="traveller", instructions="Be brief.", model=kind("desk", client), tools=[weather])
    return Runner.run_sync(agent, "How is the weather?").final_output


print(json.dumps({"responses": loop(OpenAIResponsesModel), "chat": loop(OpenAIChatCompletionsModel)}))
