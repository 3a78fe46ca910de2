"""GRPO one update at a time, with a small random model on the real backend and the real trainer."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from grpo_host.agents.agent import Agent
from grpo_host.assembly.from_python.environments import PromptEnvironment, prompt_task
from grpo_host.assembly.from_python.rewards import as_rewards
from grpo_host.backends.local_model import LocalModel
from grpo_host.config.schema import TrainingConfig
from grpo_host.rollouts.engine import RolloutEngine
from grpo_host.rollouts.scoring import RewardSet
from grpo_sdk import ConfigError, Sampling
from grpo_sdk.errors import CapabilityError, RunError
from grpo_sdk.testing import ScriptedBackend

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]

TASKS = [prompt_task("Hi", "a"), prompt_task("Where is it?", "b")]


class Once:
    async def reset(self):
        return {}

    async def step(self, action):
        return {"done": True}


def even(trajectory):
    """The share of even ids: nothing but the exact tokens tells it."""
    ids = [i for s in trajectory.ledger.sequences for i, m in zip(s.ids, s.mask, strict=True) if m]
    return sum(i % 2 == 0 for i in ids) / len(ids)


@pytest.fixture
def model(heavy, tiny_model_path):
    """Each test's own: what one has learnt, the next must not go on from."""
    model = LocalModel(str(tiny_model_path), backend="transformers", context=256)
    yield model
    asyncio.run(model.close())


def engine_of(agent, reward=even):
    return RolloutEngine(
        agent,
        lambda: PromptEnvironment(Once()),
        RewardSet(as_rewards(reward)),
        environment_name="prompts",
    )


def run(model, script, reward=even, **settings):
    """``await script(trainer)`` on a fresh trainer of ``model``."""
    from grpo_host.training.trl.online import OnlineTrainer

    async def main():
        agent = await model.agent(sampling=Sampling(max_tokens=12, temperature=1.0, top_p=0.9, top_k=5))
        trainer = OnlineTrainer(
            engine_of(agent, reward),
            TrainingConfig(**{"group_size": 4, "learning_rate": 1e-2, "micro_batch": 8, **settings}),
            seed=3,
        )
        try:
            return await script(trainer)
        finally:
            await trainer.close()

    return asyncio.run(main())


def trained(policy):
    return {n: p.detach().clone() for n, p in policy.model.named_parameters() if p.requires_grad}


def changed(before, after):
    return [name for name in before if not before[name].equal(after[name])]


def test_a_step_updates_the_policy_and_keeps_the_optimizers_state(model):
    async def script(trainer):
        first = await trainer.step(TASKS)
        between = trained(trainer.policy)
        second = await trainer.step(TASKS)
        assert first.updated
        assert second.updated
        assert first.metrics["grad_norm"] > 0
        assert changed(between, trained(trainer.policy))
        steps = {int(state["step"]) for state in trainer._optimizer.state.values()}
        assert steps == {2}, "one optimizer, two updates"
        assert [len(group) for group in first.groups] == [4, 4]
        assert first.groups[0][0].policy_version == 0
        assert second.groups[0][0].policy_version == trainer.policy.version - 1 == 1

    run(model, script)


def test_a_step_does_not_seed_the_callers_generators(model):
    async def drawn(trainer):
        assert (await trainer.step(TASKS)).updated
        return random.random()

    random.seed(1)
    first = run(model, drawn)
    random.seed(2)
    assert run(model, drawn) != first


@pytest.mark.parametrize("closed", [True, False])
def test_another_trainer_goes_on_from_what_the_agent_has_learnt(model, closed):
    from grpo_host.training.trl.online import OnlineTrainer

    async def script(trainer):
        assert (await trainer.step(TASKS)).updated
        learnt = trained(trainer.policy)
        if closed:
            await trainer.close()
        another = OnlineTrainer(trainer.engine, trainer.settings)
        another.policy = await another._work(another._load)
        try:
            assert learnt
            assert not changed(learnt, trained(another.policy))
        finally:
            await another.close()

    run(model, script)


def test_the_agent_speaks_with_the_trained_weights_afterwards(model):
    import torch

    async def script(trainer):
        await trainer.step(TASKS)
        backend = trainer.engine.agent.backend
        prompt = backend.tokenizer.encode("Hello there")
        reply = await backend.generate(prompt, Sampling(max_tokens=8, seed=1))
        ids = torch.tensor([[*prompt, *reply.ids]])

        def logprobs():
            logits = trainer.policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
            return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]

        said = torch.tensor(reply.logprobs)
        with torch.no_grad(), trainer.policy.model.disable_adapter():
            untrained = (logprobs() - said).abs().max()
        with torch.no_grad():
            now = (logprobs() - said).abs().max()
        assert now < 0.3 < untrained / 3, "bfloat16 rounds by 0.1 and more"

    run(model, script, learning_rate=5e-2)


def test_chats_go_on_while_it_trains(model):
    async def script(trainer):
        backend = trainer.engine.agent.backend
        prompt = backend.tokenizer.encode("Hello there")
        answers = []

        async def chat():
            while not stepped.done():
                answers.append(await backend.generate(prompt, Sampling(max_tokens=4)))
                await asyncio.sleep(0.01)

        stepped = asyncio.ensure_future(trainer.step(TASKS))
        await asyncio.gather(stepped, chat(), chat())
        assert stepped.result().updated
        assert backend.inner.weight_version == trainer.policy.version == 1
        assert len(answers) > 2

    run(model, script)


def test_the_number_of_tasks_may_differ_from_step_to_step(model):
    async def script(trainer):
        sizes = []
        for tasks in (TASKS, TASKS[:1], [*TASKS, prompt_task("Bye", "c")]):
            step = await trainer.step(tasks)
            sizes.append(sum(map(len, step.groups)))
            assert step.updated
        return sizes

    assert run(model, script) == [8, 4, 12]


def test_rewards_that_do_not_differ_teach_nothing(model):
    async def script(trainer):
        await trainer.step(TASKS)
        trainer.engine.rewards = RewardSet(as_rewards(lambda trajectory: 1.0))
        before, version = trained(trainer.policy), trainer.policy.version
        step = await trainer.step(TASKS)
        assert not step.updated
        assert not changed(before, trained(trainer.policy)), "momentum alone must not move it"
        assert trainer.policy.version == version
        assert trainer.updates == 1

    run(model, script)


def test_a_gradient_that_is_not_finite_is_no_update_and_three_in_a_row_are_an_error(model):
    async def script(trainer):
        await trainer.step(TASKS)
        before, version = trained(trainer.policy), trainer.policy.version
        parameter = next(p for p in trainer.policy.model.parameters() if p.requires_grad)
        spoilt = parameter.register_hook(lambda gradient: gradient * float("inf"))
        for _ in range(2):
            step = await trainer.step(TASKS)
            assert not step.updated
            assert step.metrics["update/skipped_nonfinite"] == 1
        with pytest.raises(RunError, match="3 updates in a row are not finite"):
            await trainer.step(TASKS)
        assert not changed(before, trained(trainer.policy))
        assert (trainer.policy.version, trainer.updates) == (version, 1)
        spoilt.remove()
        assert (await trainer.step(TASKS)).updated
        assert {int(state["step"]) for state in trainer._optimizer.state.values()} == {2}

    run(model, script)


def test_samples_come_from_the_whole_distribution(model):
    async def script(trainer):
        sampling = trainer.engine.agent.sampling
        assert (sampling.top_p, sampling.top_k, sampling.temperature) == (1.0, 0, 1.0)

    run(model, script)


def test_trainers_do_not_pile_up_on_the_model(model):
    async def script(trainer):
        await trainer.step(TASKS)
        assert "forward" not in vars(trainer.policy.model.get_base_model())

    run(model, script)


@pytest.mark.slow
def test_it_learns_what_is_rewarded(heavy, tiny_model_path):
    """To say what lies on one side of its embedding space, and as its own control what lies on the other."""
    from safetensors.torch import load_file

    embeddings = load_file(tiny_model_path / "model.safetensors")["model.embed_tokens.weight"]
    liked = set((embeddings[:, 0] > 0).nonzero()[:, 0].tolist())

    def share(trajectory):
        ids = [i for s in trajectory.ledger.sequences for i, m in zip(s.ids, s.mask, strict=True) if m]
        return sum(i in liked for i in ids) / len(ids)

    async def script(trainer):
        steps = [await trainer.step(TASKS) for _ in range(14)]
        said = [share(item) for step in steps[-3:] for group in step.groups for item in group]
        return sum(said) / len(said)

    def learnt(reward):
        model = LocalModel(str(tiny_model_path), backend="transformers", context=256)
        said = run(model, script, reward, group_size=8, micro_batch=16, learning_rate=3e-2)
        asyncio.run(model.close())
        return said

    assert learnt(share) > learnt(lambda trajectory: 1 - share(trajectory)) + 0.1


def test_the_adapter_is_saved_and_loads(model, tmp_path):
    from grpo_host.training.policy import load_policy

    async def script(trainer):
        await trainer.step(TASKS)
        await trainer.save(tmp_path / "deep" / "adapter")
        again = load_policy(
            trainer.engine.agent.backend.model.path,
            dtype="bfloat16",
            lora=trainer.settings.lora,
            adapter=tmp_path / "deep" / "adapter",
            seed=0,
        )
        assert not changed(trained(trainer.policy), trained(again))

    run(model, script)


def test_the_whole_model_can_be_trained_and_saved(model, tmp_path):
    from transformers import AutoModelForCausalLM

    async def script(trainer):
        step = await trainer.step(TASKS)
        assert step.updated
        assert {p.dtype.itemsize for p in trainer.policy.model.parameters()} == {4}
        before = trained(trainer.policy)
        await trainer.step(TASKS)
        assert len(changed(before, trained(trainer.policy))) > 10
        await trainer.save(tmp_path / "model")
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="bfloat16")
        own = {n: t.bfloat16() for n, t in trainer.policy.model.state_dict().items()}
        assert not changed(own, saved.state_dict())

    run(model, script, lora=None, learning_rate=1e-3)


async def test_what_cannot_be_trained_is_refused(model):
    from grpo_host.training.trl.online import OnlineTrainer

    with pytest.raises(CapabilityError, match="ScriptedBackend cannot be trained with"):
        OnlineTrainer(engine_of(Agent(ScriptedBackend())))

    async def greedy():
        agent = await model.agent()
        OnlineTrainer(engine_of(replace(agent, sampling=Sampling(temperature=0.0))))

    with pytest.raises(ConfigError, match="temperature 0"):
        await greedy()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epsilon": 0.1}, r"training\.epsilon: it clips"),
        ({"beta": 0.1, "lora": None}, r"training\.beta: without lora the KL penalty needs a second model"),
        ({"dynamic_sampling": 1}, r"training\.dynamic_sampling: only a whole run"),
    ],
)
def test_what_an_update_cannot_honour_is_refused(model, settings, says):
    with pytest.raises(ConfigError, match=says):
        run(model, lambda trainer: None, **settings)


def test_a_penalty_is_for_leaving_the_policy_of_the_first_step(model):
    async def script(trainer):
        first = await trainer.step(TASKS)
        trained_once = trained(trainer.policy)
        second = await trainer.step(TASKS)
        reference = {
            name: weight for name, weight in trainer.policy.model.named_parameters() if ".ref." in name
        }
        assert first.metrics["kl"] == pytest.approx(0, abs=1e-3)
        assert second.metrics["kl"] > first.metrics["kl"]
        assert reference
        assert changed(
            {name.replace(".ref.", ".default."): weight for name, weight in reference.items()}, trained_once
        )

    run(model, script, beta=0.1)
