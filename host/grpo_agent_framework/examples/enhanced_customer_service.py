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
from grpo_agent_framework.examples.trained import is_trained, model_config

MESSAGES = [
    "Hello! Could you find out when order K111 arrives?",
    "What carrier is used for my order B103?",
]


async def main(options: argparse.Namespace) -> None:
    cache, monitoring = CacheService(), MonitoringService()
    dialogues = DialogueDatabase(shop.DIALOGUES)
    # At temperature 0 the same question has the same answer, so that answers can be cached.
    settings = model_config(options, temperature=0.0)
    trained = is_trained(settings)
    agent = MultiTurnAgent(
        model_config=settings,
        # A trained model is shown what it was trained with, and nothing else.
        dialogue_database=None if trained else dialogues,
        cache_service=cache,
    )
    agent.register_tool("lookup_order", shop.lookup_order)
    if not trained:
        agent.register_tool("search_help", shop.search_help)
    strategy = "plain" if trained else "customer_service"
    reward = create_customer_service_reward(
        expected_responses=[dialogue["expected_response"] for dialogue in shop.DIALOGUES]
    )

    with console.timed("the model loads"):
        await agent.ready()
    console.heading("Conversations: streamed, and each answer scored")
    about = {} if trained else {"shop": "Lamps & More"}
    context = await agent.start_conversation("demo_user", about, strategy=strategy)
    turns: list[dict[str, str]] = []
    answers: list[str] = []
    for number in range(100):
        message = await next_message(number, talk=options.talk)
        if not message:
            break
        nearest = dialogues.search(message, 1)
        console.note(f"(nearest example: {nearest[0].content})" if nearest else "(no example is near)")
        if number and not options.talk:  # another customer, in a conversation of his own
            context = await agent.start_conversation("other_user", about, strategy=strategy)
            turns = []
        with console.timed("the model answers") as seconds:
            answer = await streamed(agent, context.conversation_id, message)
        answers.append(answer)
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
        again = await agent.start_conversation("other_user", about)
        with console.timed("answered again"):
            answer = await agent.generate_multiturn_response(
                again.conversation_id, MESSAGES[0], strategy=strategy
            )
        console.note("the same answer" if answer == answers[0] else "another answer")

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
