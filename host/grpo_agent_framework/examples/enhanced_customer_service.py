"""A customer-service agent with example dialogues, tools, a reward for each answer, and a cache.

python -m grpo_agent_framework.examples.enhanced_customer_service
python -m grpo_agent_framework.examples.enhanced_customer_service --talk
"""

from __future__ import annotations

import argparse
import asyncio

from grpo_agent_framework import (
    CacheService,
    DialogueDatabase,
    MonitoringService,
    MultiTurnAgent,
    create_customer_service_reward,
)
from grpo_agent_framework.examples import console, shop

MESSAGES = [
    "Hello, my order 1042 has not arrived yet",
    "And can I return the lamp that was in my last order?",
]


async def main(options: argparse.Namespace) -> None:
    cache, monitoring = CacheService(), MonitoringService()
    dialogues = DialogueDatabase(shop.DIALOGUES)
    agent = MultiTurnAgent(
        model_config={
            "model_type": options.model,
            # The same question has the same answer, so that answers can be cached.
            "temperature": 0.0,
            "max_tokens": options.max_tokens,
        },
        dialogue_database=dialogues,
        cache_service=cache,
    )
    agent.register_tool("check_order_status", shop.check_order_status)
    agent.register_tool("search_help", shop.search_help)
    reward = create_customer_service_reward(
        expected_responses=[dialogue["expected_response"] for dialogue in shop.DIALOGUES]
    )

    with console.timed("the model loads"):
        await agent.ready()
    console.heading("A conversation: streamed, and each answer scored")
    context = await agent.start_conversation(
        "demo_user", {"shop": "Lamps & More"}, strategy="customer_service"
    )
    turns: list[dict[str, str]] = []
    for number in range(100):
        message = await next_message(number, talk=options.talk)
        if not message:
            break
        nearest = dialogues.search(message, 1)
        console.note(f"(nearest example: {nearest[0].content})" if nearest else "(no example is near)")
        with console.timed("the model answers") as seconds:
            answer = await streamed(agent, context.conversation_id, message)
        turns += [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        scored = await reward.compute_reward(turns)
        console.score("reward of the conversation so far", scored)
        await monitoring.log_metric("response_time", seconds(), kind="histogram")
        await monitoring.log_metric("quality_score", scored.value)
        await monitoring.log_event("user_interaction", {"user_id": "demo_user", "message": number})
    told = agent.get_conversation_summary(context.conversation_id)
    console.figures("the conversation", {key: told[key] for key in ("strategy", "turns", "tools_used")})

    if not options.talk:
        console.heading("The same question of another customer comes out of the cache")
        again = await agent.start_conversation("other_user", {"shop": "Lamps & More"})
        with console.timed("answered again"):
            answer = await agent.generate_multiturn_response(
                again.conversation_id, MESSAGES[0], strategy="customer_service"
            )
        console.note("the same answer" if answer == turns[1]["content"] else "another answer")

    console.heading("Monitoring and cache")
    console.metrics(await monitoring.get_metrics())
    console.figures("cache", cache.statistics().as_dict())
    await agent.close()


async def next_message(number: int, *, talk: bool) -> str:
    """The customer's next message; empty at the end."""
    if talk:
        return await asyncio.to_thread(console.ask)
    message = MESSAGES[number] if number < len(MESSAGES) else ""
    if message:
        console.said("Customer", message)
    return message


async def streamed(agent: MultiTurnAgent, conversation_id: str, message: str) -> str:
    """The answer, shown as it comes. What is kept is the last message, after any tool calls."""
    console.said("Agent", "", end="")
    async for piece in agent.stream_multiturn_response(conversation_id, message):
        console.piece(piece)
    console.piece("\n")
    return str(agent.get_conversation_summary(conversation_id)["last_response"])


if __name__ == "__main__":
    console.run(
        main,
        __doc__,
        add_options=lambda parser: parser.add_argument(
            "--talk", action="store_true", help="be the customer yourself; an empty line ends it"
        ),
    )
