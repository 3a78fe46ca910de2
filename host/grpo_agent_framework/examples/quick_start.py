"""Conversations with an agent that looks orders up, and what a reward says about its tone.

python -m grpo_agent_framework.examples.quick_start
"""

from __future__ import annotations

import argparse

from grpo_agent_framework import MultiTurnAgent, create_customer_service_reward
from grpo_agent_framework.examples import console, shop
from grpo_agent_framework.examples.trained import is_trained, model_config

MESSAGES = [
    "Hello! Could you find out when order K111 arrives?",
    "I am asking about order M249: what is its status?",
]


async def main(options: argparse.Namespace) -> None:
    settings = model_config(options, temperature=0.0)  # as a trained agent was measured
    agent = MultiTurnAgent(model_config=settings, max_conversation_turns=15)
    agent.register_tool("lookup_order", shop.lookup_order)
    with console.timed("the model loads"):
        await agent.ready()

    console.heading("Two customers, each in a conversation of his own")
    turns = []
    for message in MESSAGES:
        context = await agent.start_conversation(
            user_id="demo_user", strategy="plain" if is_trained(settings) else "customer_service"
        )
        console.said("Customer", message)
        with console.timed("the model answers"):
            response = await agent.generate_multiturn_response(context.conversation_id, message)
        console.said("Agent", response)
        turns += [{"role": "user", "content": message}, {"role": "assistant", "content": response}]

    console.heading("What a reward says about the tone")
    reward = create_customer_service_reward()
    console.score("customer_service", await reward.compute_reward(turns))

    console.heading("What the agent knows about the conversation")
    summary = agent.get_conversation_summary(context.conversation_id)
    console.figures("summary", {key: value for key, value in summary.items() if value not in (None, "", [])})
    await agent.close()


if __name__ == "__main__":
    console.run(main, __doc__)
