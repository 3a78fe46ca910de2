"""pydantic-ai: an Agent, on each protocol."""

import json
import os

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


def loop(kind):
    provider = OpenAIProvider(base_url=os.environ["BASE_URL"], api_key="none")
    agent = Agent(kind("desk", provider=provider), instructions="Be brief.")

    @agent.tool_plain
    def weather(town: str) -> str:
        """The weather of a town."""
        return town[::-1]

    return agent.run_sync("How is the weather?").output


print(json.dumps({"chat": loop(OpenAIChatModel), "responses": loop(OpenAIResponsesModel)}))
