"""The workload of bench.orchestration: episodes of four model turns, of which three call an async tool."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.rollouts.engine import RolloutEngine, group_requests
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_sdk import reward
from grpo_sdk.backend import Backend
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.messages import Message, ToolSchema, assistant, tool_call, user
from grpo_sdk.seeds import derive_seed
from grpo_sdk.strategy import Strategy
from grpo_sdk.tools import ToolLike
from grpo_sdk.trajectory import Task, Trajectory

TURNS = 4
SYSTEM = "You work at an order desk. Look orders up before you answer."
QUESTION = "Hello, where is my order K482?"
FOUND = '{"item": "lamp", "status": "shipped", "eta": "Friday", "carrier": "DHL"}'
ANSWER = "Your order K482 was shipped with DHL and arrives on Friday."
ARGUMENTS = '{"order_id": "K482"}'
GROUP = 8


class LookupEnvironment(Environment):
    """A customer with one question and an async tool; whatever is said ends the episode."""

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(f"{split}-{index}", split=split) for index in range(4096)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return Observation([user(QUESTION)])

    async def step(self, action: Message) -> StepResult:
        return StepResult(done=True, outcome={"success": True})

    def tools(self) -> Sequence[ToolLike]:
        return (self.lookup_order,)

    async def lookup_order(self, order_id: str) -> str:
        """Look up an order: its item, status, eta and carrier.

        Args:
            order_id: The order number, such as K482.
        """
        return FOUND


def script(messages: Sequence[Message], tools: Sequence[ToolSchema]) -> Message:
    """Three look-ups, then an answer: what ScriptedBackend says."""
    lookups = sum(message["role"] == "tool" for message in messages)
    if lookups < TURNS - 1:
        return assistant("", [tool_call("lookup_order", ARGUMENTS, f"call_{lookups}")])
    return assistant(ANSWER)


@reward
async def solved(trajectory: Trajectory) -> float:
    """1 for what the environment calls a success."""
    return float(trajectory.outcome["success"])


async def run_episodes(
    backend: Backend, count: int, *, concurrency: int, group: int = GROUP, scored: bool = False
) -> None:
    """``count`` episodes through the rollout engine. Raises ``RuntimeError`` unless all go as they should.

    Groups are begun and given back whole. ``scored``: each is scored by a reward.
    """
    agent = Agent(backend, strategy=Strategy("desk", SYSTEM), limits=AgentLimits(turns=TURNS))
    engine = RolloutEngine(
        agent,
        LookupEnvironment,
        RewardSet([WeightedReward("solved", solved())] if scored else []),
        environment_name="lookup",
        concurrency=concurrency,
        episode_seconds=600,
    )
    tasks = LookupEnvironment().tasks("train")[: count // group]
    requests = group_requests(tasks, group, seed=lambda task, n: derive_seed(task.id, n), label="bench")
    groups, metrics = await engine.run(requests)
    if metrics.turns != count * TURNS or metrics.statuses["completed"] != count or metrics.tool_errors:
        wrong = [t.error or t.stop_reason for group in groups for t in group if t.status != "completed"]
        raise RuntimeError(f"the episodes went wrong: {metrics.as_dict()} {wrong[:1]}")
