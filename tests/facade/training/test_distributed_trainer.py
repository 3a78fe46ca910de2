from __future__ import annotations

import asyncio
import json

import pytest

from grpo_agent_framework.core.agent import Agent
from grpo_agent_framework.core.environment import Environment
from grpo_agent_framework.core.multiturn_agent import DialogueDatabase, MultiTurnAgent
from grpo_agent_framework.training.distributed_trainer import (
    DistributedConfig,
    DistributedGRPOTrainer,
    TrainingConfig,
)
from grpo_environments.arithmetic.environment import ArithmeticEnvironment
from grpo_host.agents.agent import Agent as HostAgent
from grpo_host.backends.local_model import LocalModel
from grpo_sdk import ConfigError, Sampling
from grpo_sdk.errors import CapabilityError
from grpo_sdk.testing import ScriptedBackend

WARNINGS = [
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]


class MyEnvironment(Environment):
    prompts = ("Hi", "Where is my order?", "I want to pay", "Bye", "Help me please", "Cancel it")

    async def reset(self):
        return {"state": "initial"}

    async def step(self, action):
        return {"reward": 0.5, "done": True}


class Trainable:
    """What a MultiTurnAgent is to the trainer."""

    def __init__(self, path):
        self.model = LocalModel(str(path), backend="transformers", context=128)

    async def ready(self) -> HostAgent:
        return await self.model.agent(sampling=Sampling(max_tokens=8, top_p=0.9))


def even(trajectory):
    ids = [i for s in trajectory.ledger.sequences for i, m in zip(s.ids, s.mask, strict=True) if m]
    return sum(i % 2 == 0 for i in ids) / len(ids)


def make(agent=None, distributed=None, environment=None, reward=even, **training):
    return DistributedGRPOTrainer(
        agent=agent or HostAgent(ScriptedBackend()),
        environment=environment or MyEnvironment(),
        reward_function=reward,
        training_config=TrainingConfig(**training),
        distributed_config=DistributedConfig(**(distributed or {})),
    )


def config_of(**options):
    from grpo_sdk import ModelSpec

    backend = ScriptedBackend()
    backend.model = ModelSpec("a/Tiny_Model", context=512)
    sampling = Sampling(max_tokens=20, temperature=0.7)
    return make(**options)._config(HostAgent(backend, sampling=sampling))


def test_the_guides_fields_say_how_much_is_played_a_step():
    config = config_of(
        num_episodes=1000,
        num_generations=16,
        use_lora=True,
        bf16=True,
        run_post_eval=True,
        distributed={"world_size": 4, "mixed_precision": True, "gradient_accumulation_steps": 2},
    )
    training = config.training
    assert training.group_size == 16
    assert training.tasks_per_step == 4 * 2, "two groups in each of four processes"
    assert training.micro_batch == 16
    assert training.steps == 8, "8 steps of 128 episodes are the first to hold 1000"
    assert training.world_size == 4
    assert (config.model.dtype, training.mixed_precision) == ("bfloat16", True)
    assert config.evaluation.after
    assert config.evaluation.episodes == 32


def test_processes_share_a_model_as_a_file_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_of(distributed={"world_size": 2, "accelerate": "fsdp.yaml"})
    assert config.training.accelerate == str(tmp_path / "fsdp.yaml")
    assert config_of(distributed={"world_size": 2}).training.accelerate is None


def test_the_guides_conservative_settings_reach_the_trainer():
    config = config_of(learning_rate=1e-5, gradient_clipping=0.5, early_stopping=True, patience=50)
    assert config.training.learning_rate == 1e-5
    assert config.training.max_grad_norm == 0.5
    assert config.training.early_stopping.patience == 50
    assert config.evaluation.split == "held_out"
    assert config.evaluation.episodes > 0


def test_without_evaluation_nothing_is_measured():
    assert config_of().evaluation.episodes == 0


def test_a_whole_model_is_trained_more_carefully_than_an_adapter():
    assert config_of().training.learning_rate == 3e-4
    config = config_of(use_lora=False)
    assert config.training.lora is None
    assert config.training.learning_rate == 1e-5


def test_without_bf16_everything_is_float32():
    config = config_of(bf16=False)
    assert (config.model.dtype, config.training.mixed_precision) == ("float32", False)


def test_the_agents_own_sampling_and_model_are_used():
    config = config_of()
    assert (config.sampling.temperature, config.sampling.max_tokens) == (0.7, 20)
    assert (config.name, config.model.context) == ("tiny-model", 512)
    assert config_of(temperature=1.0).sampling.temperature == 1.0


def test_few_prompts_are_measured_on_what_is_trained_and_said_so():
    assert config_of(prompts=["a", "b"], run_post_eval=True).evaluation.split == "train"
    assert config_of(prompts=["a"], held_out_prompts=["b"]).evaluation.split == "held_out"


def test_an_environment_without_prompts_has_nothing_held_out():
    class Unprompted(MyEnvironment):
        prompts = ()

    assert config_of(environment=Unprompted(), run_post_eval=True).evaluation.split == "train"


def test_prompts_for_an_environment_with_tasks_of_its_own_are_refused():
    with pytest.raises(ConfigError, match="prompts: ArithmeticEnvironment has tasks of its own"):
        make(environment=ArithmeticEnvironment, prompts=["Hi"])


def test_prompts_come_from_the_dialogue_database_where_none_are_given():
    database = DialogueDatabase([{"id": "1", "content": "I need help with my order"}])
    agent = MultiTurnAgent(dialogue_database=database)

    class Bare(MyEnvironment):
        prompts = ()

    trainer = make(agent=agent, environment=Bare())
    assert [t.data["prompt"] for t in trainer._environment().tasks("train")] == ["I need help with my order"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_episode": 5}, r'unknown setting "num_episode"\. Did you mean "num_episodes"'),
        ({"num_generations": 1}, "num_generations: give at least 2"),
        ({"num_episodes": 0}, "num_episodes: give at least 1"),
        ({"patience": 0}, "patience: give at least 1"),
        ({"gradient_clipping": -1.0}, "gradient_clipping: give more than 0"),
        ({"per_device_batch_size": 3}, "is no multiple of num_generations 8"),
        ({"bf16": False, "distributed": {"mixed_precision": True}}, "computes in bfloat16, and bf16 is off"),
        ({"distributed": {"world_size": 0}}, "world_size: give at least 1"),
        ({"distributed": {"worlds": 2}}, 'unknown setting "worlds"'),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_what_is_no_agent_and_no_configuration_is_refused_when_the_trainer_is_made():
    with pytest.raises(ConfigError, match=r"agent: 'gpt2' is no agent. Give a MultiTurnAgent"):
        DistributedGRPOTrainer("gpt2", MyEnvironment())
    agent = MultiTurnAgent()
    with pytest.raises(ConfigError, match=r"training_config: give TrainingConfig\(...\), not dict"):
        DistributedGRPOTrainer(agent, MyEnvironment(), training_config={"num_episodes": 3})
    with pytest.raises(ConfigError, match=r"distributed_config: give DistributedConfig\(...\), not dict"):
        DistributedGRPOTrainer(agent, MyEnvironment(), distributed_config={"world_size": 2})


def test_an_agent_that_only_responds_cannot_be_trained():
    class MyAgent(Agent):
        async def generate_response(self, prompt):
            return "no"

    with pytest.raises(CapabilityError, match="the backend RespondingBackend cannot be trained with"):
        asyncio.run(make(agent=MyAgent()).train())


@pytest.mark.model
@pytest.mark.slow
class TestTraining:
    pytestmark = WARNINGS

    def test_a_run_leaves_its_directory_and_the_agent_speaks_with_what_it_learnt(
        self, heavy, tiny_model_path, tmp_path
    ):
        agent = Trainable(tiny_model_path)
        trainer = make(
            agent=agent,
            num_episodes=16,
            num_generations=4,
            learning_rate=1e-2,
            run_post_eval=True,
            output=str(tmp_path),
            quiet=True,
            distributed={"gradient_accumulation_steps": 2},
        )

        async def main():
            before = (await agent.ready()).backend.inner.weight_version
            assert await trainer.train() is agent
            return before, (await agent.ready()).backend.inner.weight_version

        before, after = asyncio.run(main())
        assert before == 0 < after
        run = trainer.run_directory
        assert asyncio.run(agent.ready()).backend.model.adapter == run / "adapter", "goes on from there"
        assert run.parent.parent == tmp_path
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
        assert len((run / "trajectories.jsonl").read_text().splitlines()) == 16 + 2
        assert (run / "adapter" / "adapter_model.safetensors").is_file()
        assert trainer.report["before"]["split"] == "held_out"
        assert trainer.report["after"]["reward"]["mean"] >= 0
        assert "Made from Python objects" in (run / "agent.yaml").read_text()

    def test_early_stopping_ends_a_run_that_does_not_get_better(self, heavy, tiny_model_path, tmp_path):
        def flat(trajectory):
            return 0.5

        trainer = make(
            agent=Trainable(tiny_model_path),
            reward=flat,
            num_episodes=400,
            num_generations=2,
            early_stopping=True,
            patience=2,
            eval_every=1,
            eval_episodes=1,
            output=str(tmp_path),
            quiet=True,
        )
        asyncio.run(trainer.train())
        assert trainer.report["early_stopping"]["stopped_at"] == 2
        assert trainer.report["steps"] == 2

    def test_a_cancelled_run_saves_a_checkpoint_and_can_go_on(self, heavy, tiny_model_path, tmp_path):
        agent = Trainable(tiny_model_path)
        options = {"num_generations": 2, "output": str(tmp_path), "quiet": True, "name": "cut"}

        async def cut():
            task = asyncio.create_task(make(agent=agent, num_episodes=1000, **options).train())
            while not any(f.stat().st_size for f in tmp_path.glob("cut/*/metrics.jsonl")):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cut())
        [checkpoint] = tmp_path.glob("cut/*/checkpoints/checkpoint-*/grpo_state.json")
        step = int(checkpoint.parent.name.rpartition("-")[2])
        trainer = make(agent=agent, num_episodes=2 * (step + 1), **options)
        asyncio.run(trainer.train(resume="latest"))
        lines = (trainer.run_directory / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 2))

    def test_two_ranks_train_objects_of_a_script(self, heavy, tiny_model_path, tmp_path):
        agent = Trainable(tiny_model_path)
        told = []

        def closure(trajectory):
            return even(trajectory) + 0 * len(told)

        trainer = make(
            agent=agent,
            reward=closure,
            num_episodes=8,
            num_generations=4,
            learning_rate=1e-2,
            output=str(tmp_path),
            quiet=True,
            distributed={"world_size": 2},
        )
        asyncio.run(trainer.train())
        lines = (trainer.run_directory / "trajectories.jsonl").read_text().splitlines()
        assert len(lines) == 8
        assert len({json.loads(line)["id"] for line in lines}) == 8
        assert asyncio.run(agent.ready()).backend.inner.weight_version > 0
