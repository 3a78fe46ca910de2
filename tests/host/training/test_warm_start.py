"""What a warm start imitates."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from grpo_host.config.schema import WarmStartConfig
from grpo_sdk import Task, Trajectory, assistant, user
from grpo_sdk.errors import ConfigError
from grpo_sdk.trajectory import StopReason

OWN = [[user(f"question {n}"), assistant(f"answer {n}")] for n in range(6)]


@pytest.fixture
def found(heavy, fakes):
    """What is imitated under some settings, where the environment has demonstrations of its own or not."""
    from grpo_host.training.warm_start import demonstrations

    class Shown(fakes.Talk):
        def demonstrations(self, split):
            return OWN

    def found(*, own=True, seed=0, **settings):
        environment = Shown() if own else fakes.Talk()
        imitated = demonstrations(environment, WarmStartConfig(**settings), seed=seed)
        return [demonstration.messages for demonstration in imitated]

    return found


@pytest.fixture
def dialogues(tmp_path):
    path = tmp_path / "dialogues.jsonl"
    rows = [
        {"content": "Hi", "expected_response": "Hello"},
        {"messages": OWN[0] + OWN[1]},
        {"content": "Bye"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.model
def test_the_environments_demonstrations_are_imitated_in_another_order(found):
    assert sorted(map(str, found())) == sorted(map(str, OWN))
    assert found() == found() != found(seed=1)
    assert len(found(max_demonstrations=2)) == 2


@pytest.mark.model
@pytest.mark.parametrize("own", [True, False])
def test_dialogues_of_a_file_are_imitated_instead(found, dialogues, own):
    imitated = found(own=own, dialogues=dialogues)
    expected = [[user("Hi"), assistant("Hello")], OWN[0] + OWN[1]]
    assert sorted(map(str, imitated)) == sorted(map(str, expected))


def episode(answer, *, reward=None, status="completed") -> Trajectory:
    reason = StopReason.ERROR if status == "failed" else StopReason.DONE
    messages = [user("Where is it?"), assistant(answer)]
    return Trajectory(answer, "shop", Task("t"), status, reason, messages, reward=reward)


@pytest.fixture
def episodes(tmp_path):
    path = tmp_path / "scored.jsonl"
    played = [
        episode("liked", reward=1.0),
        episode("disliked", reward=0.0),
        episode("not scored"),
        episode("failed", reward=1.0, status="failed"),
    ]
    path.write_bytes(b"\n".join(item.to_json() for item in played))
    return str(path)


@pytest.mark.model
@pytest.mark.parametrize(
    ("min_reward", "expected"), [(None, ["disliked", "liked", "not scored"]), (0.5, ["liked"])]
)
def test_of_episodes_those_that_ended_well_are_imitated(found, episodes, min_reward, expected):
    imitated = found(dialogues=episodes, min_reward=min_reward)
    assert sorted(messages[-1]["content"] for messages in imitated) == expected


@pytest.mark.model
def test_episodes_none_of_which_ended_well_are_an_error(found, episodes):
    with pytest.raises(ConfigError, match=r"only episodes that failed or have no reward of at least 2\.0"):
        found(dialogues=episodes, min_reward=2.0)


@pytest.mark.model
def test_nothing_to_imitate_is_an_error(found):
    with pytest.raises(
        ConfigError, match="the environment Talk has no demonstrations; remove warm_start, give"
    ):
        found(own=False)


@pytest.mark.model
async def test_demonstrations_that_do_not_fit_are_left_out_and_none_that_fits_is_an_error(
    heavy, tiny_model_path, caplog
):
    from grpo_host.backends.local_model import LocalModel
    from grpo_host.training.warm_start import tokenize

    long = [user("why " * 400), assistant("because")]

    async def tokenized(dialogues):
        model = LocalModel(str(tiny_model_path), backend="transformers", context=128)
        try:
            return await tokenize(await model.agent(), dialogues, ())
        finally:
            await model.close()

    assert len(await tokenized([*OWN, long])) == len(OWN)
    assert "1 of 7 demonstrations are longer than the context of 128 tokens" in caplog.text
    with pytest.raises(ConfigError, match="none of 1 demonstrations fits into the context of 128 tokens"):
        await tokenized([long])


@pytest.mark.model
def test_a_demonstration_that_gives_no_finite_loss_is_shown_and_left_out(tiny, tmp_path):
    import math

    import torch

    from grpo_host.training.policy import Policy
    from grpo_host.training.warm_start import warm_start
    from grpo_sdk.trajectory import TokenSequence

    policy = Policy(tiny.adapted(), tiny.tokenizer(), "float32")
    with torch.no_grad():
        policy.model.get_input_embeddings().weight[50] = math.nan
    good, bad = ([2, 3, token, 1] for token in (10, 50))
    losses = []
    warm_start(
        policy,
        [TokenSequence(ids, [0, 0, 1, 1], [0.0] * 4, [-1, -1, 0, 0]) for ids in (good, bad, good, good)],
        WarmStartConfig(epochs=1, batch=1),
        directory=tmp_path,
        seed=0,
        micro_batch=1,
        on_step=lambda step, of, loss: losses.append(loss),
        check=lambda: None,
    )
    assert sorted(map(math.isfinite, losses)) == [False, True, True, True]
    assert all(p.isfinite().all() for p in policy.model.parameters() if p.requires_grad)


@pytest.mark.model
def test_gradient_checkpointing_changes_no_weight(tiny, tmp_path):
    import torch

    from grpo_host.training.policy import Policy
    from grpo_host.training.warm_start import warm_start
    from grpo_sdk.trajectory import TokenSequence

    def trained(checkpointing):
        torch.manual_seed(0)
        policy = Policy(tiny.adapted(), tiny.tokenizer(), "float32")
        warm_start(
            policy,
            [TokenSequence([2, 3, 10, 1], [0, 0, 1, 1], [0.0] * 4, [-1, -1, 0, 0])] * 2,
            WarmStartConfig(epochs=2, batch=2),
            directory=tmp_path,
            seed=0,
            micro_batch=2,
            on_step=lambda step, of, loss: None,
            check=lambda: None,
            gradient_checkpointing=checkpointing,
        )
        assert policy.model.get_base_model().is_gradient_checkpointing == checkpointing
        return [p.detach() for p in policy.model.parameters() if p.requires_grad]

    for kept, computed_twice in zip(trained(False), trained(True), strict=True):
        assert kept.allclose(computed_twice, atol=1e-6)
