"""A conversation with an agent, and what a reward says about it.

python -m grpo_agent_framework.examples.quick_start
"""

from __future__ import annotations

import argparse

from grpo_agent_framework import MultiTurnAgent, create_customer_service_reward
from grpo_agent_framework.examples import console

MESSAGES = [
    "Hi, I need help with my order",
    "It was due on Monday and it has not arrived. The number is 1042.",
]


async def main(options: argparse.Namespace) -> None:
    agent = MultiTurnAgent(
        model_config={
            "model_type": options.model,
            "temperature": 0.3,  # a small model at a higher one wanders
            "max_tokens": options.max_tokens,
        },
        max_conversation_turns=15,
    )
    with console.timed("the model loads"):
        await agent.ready()
    context = await agent.start_conversation(
        user_id="demo_user", initial_context={"topic": "customer_service"}
    )

    console.heading("A conversation")
    turns = []
    for message in MESSAGES:
        console.said("Customer", message)
        with console.timed("the model answers"):
            response = await agent.generate_multiturn_response(
                context.conversation_id, message, strategy="customer_service"
            )
        console.said("Agent", response)
        turns += [{"role": "user", "content": message}, {"role": "assistant", "content": response}]

    console.heading("What a reward says about it")
    reward = create_customer_service_reward()
    console.score("customer_service", await reward.compute_reward(turns))

    console.heading("What the agent knows about the conversation")
    summary = agent.get_conversation_summary(context.conversation_id)
    console.figures("summary", {key: value for key, value in summary.items() if value not in (None, "", [])})
    await agent.close()


if __name__ == "__main__":
    console.run(main, __doc__)
