"""A customer-service agent as one would run it: conversations that outlive the process, many customers
at once, feedback that becomes a reward, and training on both.

    python -m grpo_agent_framework.examples.ultimate_customer_service_demo
    python -m grpo_agent_framework.examples.ultimate_customer_service_demo --keep my-service
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from grpo_agent_framework import (
    CacheService,
    DialogueDatabase,
    DistributedConfig,
    DistributedGRPOTrainer,
    Environment,
    MonitoringService,
    MultiTurnAgent,
    TrainingConfig,
    create_customer_service_reward,
    create_neural_reward_function,
)
from grpo_agent_framework.examples import console, feedback, shop
from grpo_agent_framework.examples.trained import model_config
from grpo_host.chat.sql_store import SqlStore

CUSTOMERS = {
    "anna": "Hello! Could you find out when order K111 arrives?",
    "ben": "What carrier is used for my order B103?",
    "carla": "I cannot sign in to my account",
}


class Desk(Environment):
    """A customer with a problem; the agent's answer ends the episode."""

    prompts = tuple(f"Hello, {problem}." for problem in feedback.PROBLEMS)

    async def reset(self) -> dict[str, object]:
        return {}

    async def step(self, action: str) -> dict[str, object]:
        return {"done": True}


async def main(options: argparse.Namespace) -> None:
    settings = model_config(options, temperature=0.7)
    with tempfile.TemporaryDirectory(prefix="customer-service-") as temporary:
        folder = Path(options.keep or temporary)
        cache, monitoring = CacheService(path=folder / "cache.sqlite"), MonitoringService()
        store = SqlStore.sqlite(folder / "conversations.sqlite")
        try:
            conversations = await first_shift(settings, store, cache, monitoring)
            agent = await second_shift(settings, store, cache, conversations["anna"])
            await training(options, agent, folder)
        finally:
            await store.close()
            cache.close()
        console.heading("Monitoring")
        console.metrics(await monitoring.get_metrics())
        await agent.close()


def make_agent(settings: dict[str, Any], store: SqlStore, cache: CacheService) -> MultiTurnAgent:
    """The agent of every process of the service."""
    agent = MultiTurnAgent(
        model_config=settings,
        dialogue_database=DialogueDatabase(shop.DIALOGUES),
        cache_service=cache,
        store=store,
    )
    agent.register_tool("lookup_order", shop.lookup_order)
    agent.register_tool("search_help", shop.search_help)
    return agent


async def first_shift(
    settings: dict[str, Any], store: SqlStore, cache: CacheService, monitoring: MonitoringService
) -> dict[str, str]:
    """Customers at once; the ids of their conversations."""
    console.heading("Three customers at once")
    agent = make_agent(settings, store, cache)
    conversations = {}
    for customer in CUSTOMERS:
        context = await agent.start_conversation(
            customer, {"customer": customer}, strategy="customer_service"
        )
        conversations[customer] = context.conversation_id

    async def serve(customer: str, message: str) -> str:
        started = time.perf_counter()
        answer = await agent.generate_multiturn_response(conversations[customer], message)
        await monitoring.log_metric("response_time", time.perf_counter() - started, kind="histogram")
        await monitoring.log_event("user_interaction", {"user_id": customer, "resolved": False})
        return answer

    with console.timed("all are answered"):
        answers = await asyncio.gather(*(serve(name, message) for name, message in CUSTOMERS.items()))
    for (customer, message), answer in zip(CUSTOMERS.items(), answers, strict=True):
        console.said(f"Customer {customer}", message)
        console.said("Agent", answer)
    console.note(f"{len(agent.get_active_conversations())} conversations are active")
    await agent.close()
    return conversations


async def second_shift(
    settings: dict[str, Any], store: SqlStore, cache: CacheService, conversation_id: str
) -> MultiTurnAgent:
    """Another agent object, as after a restart, goes on with a conversation of the first."""
    console.heading("After a restart, a conversation goes on")
    agent = make_agent(settings, store, cache)
    message = "And what is the status of order K111?"
    console.said("Customer anna", message)
    with console.timed("the model answers"):
        answer = await agent.generate_multiturn_response(conversation_id, message)
    console.said("Agent", answer)
    told = agent.get_conversation_summary(conversation_id)
    console.figures("what the store knows", {key: told[key] for key in ("user_id", "turns", "tools_used")})
    return agent


async def training(options: argparse.Namespace, agent: MultiTurnAgent, folder: Path) -> None:
    """Feedback becomes a reward; the agent is trained on it and on the preset's."""
    console.heading("Feedback becomes a reward")
    neural = create_neural_reward_function(weight=0.5, update_frequency=50)
    await feedback.teach(neural)

    console.heading("Training on both rewards, measured on prompts that are held out")
    trainer = DistributedGRPOTrainer(
        agent=agent,
        environment=Desk(),
        reward_function=[create_customer_service_reward(weight=0.5), neural],
        training_config=TrainingConfig(
            num_episodes=options.episodes,
            num_generations=4,
            run_post_eval=True,
            eval_episodes=2,
            output=str(folder / "runs"),
            quiet=True,
        ),
        distributed_config=DistributedConfig(gradient_accumulation_steps=2),
    )
    with console.timed(f"{options.episodes} episodes"):
        await trainer.train()
    report = trainer.report
    console.table(
        "held-out reward",
        ("", "before", "after"),
        [("all", report["before"]["reward"]["mean"], report["after"]["reward"]["mean"])],
    )
    console.note(f"GRPO steps: {report['steps']}. A minute of training shows how it goes; it changes little.")


if __name__ == "__main__":
    console.run(
        main,
        __doc__,
        max_tokens=40,
        add_options=lambda parser: (
            parser.add_argument(
                "--episodes", type=int, default=16, help="of training (default: %(default)s)"
            ),
            parser.add_argument("--keep", metavar="DIR", help="keep conversations, cache and runs there"),
        ),
    )
