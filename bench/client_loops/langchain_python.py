"""LangChain: create_agent, on each protocol."""

import json
import os

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI


def weather(town: str) -> str:
    """The weather of a town."""
    return town[::-1]


def loop(**options):
    model = ChatOpenAI(model="desk", base_url=os.environ["BASE_URL"], api_key="none", **options)
    agent = create_agent(model, [weather], system_prompt="Be brief.")
    return agent.invoke({"messages": [("user", "How is the weather?")]})["messages"][-1].text


answers = {"chat": loop(), "chat, streamed": loop(streaming=True), "responses": loop(use_responses_api=True)}
print(json.dumps(answers))
