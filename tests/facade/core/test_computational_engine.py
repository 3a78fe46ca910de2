from __future__ import annotations

import asyncio
import math

import pytest

from grpo_agent_framework.core.agent import Agent
from grpo_agent_framework.core.computational_engine import RECENT, create_computational_engine
from grpo_agent_framework.core.environment import Environment
from grpo_agent_framework.core.multiturn_agent import MultiTurnAgent
from grpo_environments.arithmetic.environment import ArithmeticEnvironment
from grpo_sdk import ConfigError, GroupReward, RewardResult
from grpo_sdk.errors import CapabilityError

PROMPTS = ["Hello, how can I help you?", "I need support with my account", "Can you help me with billing?"]


class MyAgent(Agent):
    async def generate_response(self, prompt: str) -> str:
        return f"Response to: {prompt}"


class MyEnvironment(Environment):
    async def reset(self):
        return {"state": "initial"}

    async def step(self, action: str):
        return {"reward": 0.5, "done": False}


def length(turns, context):
    return len(turns[-1]["content"]) / 100


def make(agent=None, environment=None, reward=length, **options):
    return create_computational_engine(
        agent=agent or MyAgent({"model_type": "demo"}),
        environment=environment or MyEnvironment(),
        reward_function=reward,
        **options,
    )


async def iterate(engine, prompts=PROMPTS):
    return await engine.train_iteration(prompts)


async def test_each_prompt_is_an_episode_that_is_scored():
    result = await iterate(make(num_workers=4))
    assert [t.messages[0]["content"] for t in result["trajectories"]] == PROMPTS
    assert result["rewards"] == [len(f"Response to: {prompt}") / 100 for prompt in PROMPTS]
    assert result["average_reward"] == pytest.approx(sum(result["rewards"]) / 3)
    assert result["parts"]["environment"] == 0.5


async def test_an_agent_that_only_responds_is_not_updated():
    result = await iterate(make())
    assert result["updated"] is False
    assert "loss" not in result


async def test_without_a_reward_function_the_environments_rewards_count():
    assert (await iterate(make(reward=None)))["average_reward"] == 0.5


async def test_prompts_may_differ_in_number_from_call_to_call():
    async def main():
        engine = make()
        return [len((await engine.train_iteration(PROMPTS[:n]))["rewards"]) for n in (3, 1, 2)]

    assert await main() == [3, 1, 2]


async def test_metrics_tell_workers_throughput_and_failures():
    engine = make(num_workers=4)
    assert engine.get_metrics()["engine_metrics"]["trajectories_per_second"] == 0
    await iterate(engine)
    metrics = engine.get_metrics()
    assert metrics["active_workers"] == 4
    assert metrics["iterations"] == 1
    assert metrics["engine_metrics"]["episodes"] == 3
    assert metrics["engine_metrics"]["trajectories_per_second"] > 0
    assert metrics["engine_metrics"]["failed"] == 0


async def test_the_rate_is_that_of_the_last_iterations_and_not_of_all():
    class WarmsUp(MyEnvironment):
        seconds = 1.0

        async def step(self, action):
            await asyncio.sleep(WarmsUp.seconds)
            return {"reward": 0.5, "done": True}

    engine = make(environment=WarmsUp())
    await engine.train_iteration(PROMPTS)
    slow = engine.get_metrics()["engine_metrics"]
    WarmsUp.seconds = 0.0
    for _ in range(RECENT):
        await engine.train_iteration(PROMPTS)
    now = engine.get_metrics()["engine_metrics"]
    assert slow["trajectories_per_second"] == slow["episodes"] / slow["seconds"]
    assert now["episodes"] == 3 * (1 + RECENT)
    recent = now["seconds"] - slow["seconds"]
    assert now["trajectories_per_second"] == pytest.approx(3 * RECENT / recent)
    assert now["trajectories_per_second"] > now["episodes"] / now["seconds"]


async def test_answers_are_judged_in_groups_where_a_reward_compares_them():
    class Rank(GroupReward):
        def score_group(self, trajectories):
            return [RewardResult(index, {"rank": index}) for index, _ in enumerate(trajectories)]

    result = await iterate(make(reward=Rank(), group_size=3), PROMPTS[:2])
    assert result["rewards"] == [0, 1, 2, 0, 1, 2]
    assert result["parts"]["rank/rank"] == 1


class Counted(MyEnvironment):
    """How many run side by side."""

    now = most = 0

    async def step(self, action):
        Counted.now += 1
        Counted.most = max(Counted.most, Counted.now)
        await asyncio.sleep(0.03)
        Counted.now -= 1
        return {"reward": 1.0, "done": True}


async def test_computation_is_scaled_while_it_runs(eventually):
    engine = make(environment=Counted(), num_workers=2)
    running = asyncio.create_task(engine.train_iteration(["Hi"] * 12))
    await eventually(lambda: Counted.most == engine.get_metrics()["busy_workers"] == 2)
    assert engine.scale_computation(2.0) == 4
    await running
    assert Counted.most == 4
    assert engine.scale_computation(0.01) == 1


@pytest.mark.parametrize("factor", [0, -1, math.inf, math.nan])
def test_a_factor_that_makes_no_sense_is_refused(factor):
    with pytest.raises(ConfigError, match="give a number above 0"):
        make().scale_computation(factor)


async def test_a_failed_episode_is_counted_and_told_and_leaves_the_others():
    class Moody(MyAgent):
        async def generate_response(self, prompt):
            if "billing" in prompt:
                raise OSError("no answer")
            return "yes"

    result = await iterate(make(agent=Moody()))
    assert result["failed"] == 1
    ((error, count),) = result["errors"].items()
    assert error.startswith('agent "Moody": generate_response(): OSError: no answer (core/test_comp')
    assert count == 1
    assert result["rewards"] == [0.03, 0.03, None]
    assert result["average_reward"] == pytest.approx(0.03)


async def test_an_iteration_without_one_score_has_no_average():
    def broken(turns, context):
        raise KeyError("tone")

    result = await iterate(make(reward=broken))
    assert math.isnan(result["average_reward"])
    ((error, count),) = result["errors"].items()
    assert (error.partition(" (")[0], count) == ("broken: KeyError: 'tone'", 3)


async def test_an_environment_of_the_sdk_poses_its_own_tasks():
    def one(trajectory):
        return 1.0

    engine = make(environment=ArithmeticEnvironment(train_tasks=4), reward=one)
    first, second, *_ = ArithmeticEnvironment(train_tasks=4).tasks("train")
    assert (await iterate(engine, [first.id, second]))["average_reward"] == 1.0
    with pytest.raises(ConfigError, match="none has the id 'Hello'; give tasks, or their ids such as"):
        await iterate(engine, ["Hello"])


@pytest.mark.parametrize("prompts", [[], "Hello"])
async def test_prompts_are_a_list(prompts):
    with pytest.raises(ConfigError, match="give a list of at least one prompt"):
        await iterate(make(), prompts)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigError, match=r'unknown setting "learning_rates"\. Did you mean "learning_rate"'):
        make(learning_rates=1.0)
    with pytest.raises(ConfigError, match="num_workers is 0"):
        make(num_workers=0)
    with pytest.raises(ConfigError, match="num_workers is '4'"):
        make(num_workers="4")


def test_what_is_no_agent_is_refused_when_the_engine_is_made():
    with pytest.raises(ConfigError, match=r"agent: 'gpt2' is no agent. Give a MultiTurnAgent"):
        make(agent="gpt2")


async def test_what_cannot_be_trained_is_neither_trained_nor_saved_silently(tmp_path):
    with pytest.raises(CapabilityError, match="RespondingBackend cannot be trained with"):
        await iterate(make(train=True))
    with pytest.raises(CapabilityError, match="there is nothing to save"):
        await make().save(tmp_path)


@pytest.mark.model
@pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
async def test_an_agent_that_can_be_trained_is_updated_and_goes_on_chatting(heavy, tiny_model_path, tmp_path):
    def even(trajectory):
        ids = [i for s in trajectory.ledger.sequences for i, m in zip(s.ids, s.mask, strict=True) if m]
        return sum(i % 2 == 0 for i in ids) / len(ids)

    config = {"model_type": str(tiny_model_path), "backend": "transformers", "max_tokens": 8}
    async with MultiTurnAgent(config) as agent, make(agent=agent, reward=even) as engine:
        results = [await engine.train_iteration(PROMPTS[:count]) for count in (3, 2)]
        context = await agent.start_conversation()
        answer = await agent.generate_multiturn_response(context.conversation_id, "Hello")
        await engine.save(tmp_path / "adapter")
        metrics = engine.get_metrics()
    assert [result["updated"] for result in results] == [True, True]
    assert [len(result["rewards"]) for result in results] == [24, 16], "groups of eight"
    assert all(result["grad_norm"] > 0 and "loss" in result for result in results)
    assert results[0]["seconds_by_phase"].keys() == {"rollouts", "training", "weight_sync"}
    assert isinstance(answer, str)
    assert (metrics["trainable"], metrics["updates"], metrics["policy_version"]) == (True, 2, 2)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    "setting", [{"steps": 5}, {"world_size": 4}, {"early_stopping": {}}, {"lr_schedule": "cosine"}]
)
def test_settings_of_a_whole_run_are_refused_by_name(setting):
    [name] = setting
    with pytest.raises(ConfigError, match=f"{name}: of a whole run.*train with DistributedGRPOTrainer"):
        make(**setting)
