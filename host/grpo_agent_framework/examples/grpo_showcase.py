"""All parts of the framework, one after another: talk, tools, rewards, learning, monitoring, caching.

python -m grpo_agent_framework.examples.grpo_showcase
python -m grpo_agent_framework.examples.grpo_showcase --iterations 10
"""

from __future__ import annotations

import argparse

from grpo_agent_framework import (
    CacheService,
    DialogueDatabase,
    Environment,
    MonitoringService,
    MultiTurnAgent,
    create_computational_engine,
    create_customer_service_reward,
    create_customer_service_ruler,
    create_neural_reward_function,
)
from grpo_agent_framework.examples import console, feedback, shop
from grpo_agent_framework.examples.trained import model_config
from grpo_agent_framework.rewards.ruler_reward import RulerReward
from grpo_sdk.errors import ConfigError

PROMPTS = [dialogue["content"] for dialogue in shop.DIALOGUES]


class OneAnswer(Environment):
    """The customer says one thing; the agent's answer ends the episode."""

    prompts = PROMPTS

    async def reset(self) -> dict[str, object]:
        return {}

    async def step(self, action: str) -> dict[str, object]:
        return {"done": True}


async def main(options: argparse.Namespace) -> None:
    cache, monitoring = CacheService(), MonitoringService()
    agent = MultiTurnAgent(
        model_config=model_config(options, temperature=1.0),
        dialogue_database=DialogueDatabase(shop.DIALOGUES),
        cache_service=cache,
    )
    agent.register_tool("lookup_order", shop.lookup_order)
    agent.register_tool("search_help", shop.search_help)

    with console.timed("the model loads"):
        await agent.ready()
    await talk(agent, monitoring)
    await rewards()
    await learned_reward()
    await relative_judging()
    await training(agent, options.iterations, monitoring)

    console.heading("Monitoring and cache")
    console.metrics(await monitoring.get_metrics())
    console.figures("cache", cache.statistics().as_dict())
    await agent.close()


async def talk(agent: MultiTurnAgent, monitoring: MonitoringService) -> None:
    """Two strategies answer the same message, with examples from the dialogue database."""
    console.heading("Conversations: the strategy says who the agent is")
    message = "My order K111 has not arrived. When will it come?"
    for strategy in ("customer_service", "technical_support"):
        context = await agent.start_conversation(user_id="demo_user")
        console.said("Customer", message)
        with console.timed(f"{strategy} answers") as seconds:
            response = await agent.generate_multiturn_response(
                context.conversation_id, message, strategy=strategy, use_tools=False
            )
        console.said(strategy, response)
        await monitoring.log_metric("response_time", seconds(), {"strategy": strategy}, kind="histogram")
        await monitoring.log_event("answered", {"strategy": strategy, "characters": len(response)})


async def rewards() -> None:
    """The same reward on an answer that helps and on one that does not."""
    console.heading("A multi-objective reward, with its reasons")
    reward = create_customer_service_reward(
        expected_responses=[dialogue["expected_response"] for dialogue in shop.DIALOGUES]
    )
    for title, answer in (
        ("an answer that helps", shop.DIALOGUES[0]["expected_response"]),
        ("an answer that does not", "That is not my problem. Read the web site."),
    ):
        turns = [{"role": "user", "content": PROMPTS[0]}, {"role": "assistant", "content": answer}]
        console.said(title, answer)
        console.score(title, await reward.compute_reward(turns))


async def learned_reward() -> None:
    """A reward that knows nothing learns from rated conversations and is asked about others."""
    console.heading("A reward that learns from feedback")
    await feedback.teach(create_neural_reward_function(update_frequency=50))


async def relative_judging() -> None:
    """Answers judged against each other by a language model, where one is configured."""
    console.heading("RULER: a group judged by a language model")
    try:
        ruler: RulerReward = create_customer_service_ruler()
    except ConfigError as problem:
        console.note(f"left out: {problem}")
        return
    await feedback.judge(ruler)
    await ruler.aclose()


async def training(agent: MultiTurnAgent, iterations: int, monitoring: MonitoringService) -> None:
    """GRPO updates of the agent that has just talked."""
    console.heading("The computational engine: episodes side by side, and a GRPO update an iteration")
    engine = create_computational_engine(
        agent=agent,
        environment=OneAnswer(),
        reward_function=create_customer_service_reward(),
        num_workers=8,
    )
    rows = []
    for _ in range(iterations):
        with console.timed("an iteration"):
            result = await engine.train_iteration(PROMPTS[:2])
        await monitoring.log_metric("average_reward", result["average_reward"])
        rows.append(
            (
                result["iteration"],
                result["average_reward"],
                result.get("loss", "-"),
                "yes" if result["updated"] else "no: all rewards equal",
                len(result["trajectories"]),
            )
        )
    console.table("iterations", ("iteration", "average reward", "loss", "updated", "episodes"), rows)
    workers = engine.scale_computation(2.0)
    metrics = engine.get_metrics()
    console.figures(
        "engine",
        {
            "workers after scale_computation(2.0)": workers,
            "trajectories per second": metrics["engine_metrics"]["trajectories_per_second"],
            "GRPO updates": metrics["updates"],
            "version of the weights": metrics["policy_version"],
        },
    )
    await engine.close()


if __name__ == "__main__":
    console.run(
        main,
        __doc__,
        add_options=lambda parser: parser.add_argument(
            "--iterations", type=int, default=3, help="of training (default: %(default)s)"
        ),
    )
