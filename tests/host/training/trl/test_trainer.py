"""Our trainer against the pinned TRL, with a random Llama of two layers and canned trajectories."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import subprocess
import sys

import pytest

from grpo_sdk import Task
from grpo_sdk.errors import RunError
from grpo_sdk.testing import make_trajectory
from grpo_sdk.trajectory import Ledger, RewardRecord, TokenConstraint, TokenSequence

pytestmark = [
    pytest.mark.model,
    # TRL says so whenever rollout_func is used; that it may change is why TRL is pinned.
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning"),
    # torch's DataLoader, for the pin_memory that transformers sets where there is no accelerator.
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]

END = 1


def sequence(prompt, *parts, logprob=-4.0):
    """Ids: ``prompt``, then ``parts`` in turn sampled and not. ``logprob`` is one number or a list."""
    ids, mask = list(prompt), [0] * len(prompt)
    for index, part in enumerate(parts):
        ids += part
        mask += [1 - index % 2] * len(part)
    logprobs = iter(logprob if isinstance(logprob, list) else [logprob] * len(ids))
    return TokenSequence(
        ids, mask, [next(logprobs) if m else 0.0 for m in mask], [0 if m else -1 for m in mask]
    )


def trajectory(*sequences, status="completed", task="t", **values):
    """A trajectory that the rewards ``values`` scored; one that is None makes the whole None."""
    failed = status == "failed" or None in values.values()
    return dataclasses.replace(
        make_trajectory("x", task=Task(task), status=status),
        ledger=Ledger(list(sequences)),
        rewards={name: RewardRecord(value) for name, value in values.items()} if status != "failed" else {},
        reward=None if failed else sum(values.values()),
    )


PLAIN = sequence([2, 3, 4], [10, 11, 12, END])
LONGER = sequence([2, 3, 4], [20, 21, 22, 23, 24, END])
WITH_TOOL = sequence([2, 3], [10, 11, END], [30, 31, 32, 33], [12, 13, END])
CUT = sequence([2, 3, 4], [40, 41, 42])


@pytest.fixture
def make(tiny, tmp_path):
    """``make(batches)``: a trainer whose rollout gives one of ``batches`` of trajectories at a time."""
    from datasets import Dataset
    from trl import GRPOConfig

    from grpo_host.training.trl.trainer import HostGRPOTrainer, ImportanceSampling

    def make(
        *batches,
        mode="token_truncate",
        cap=2.0,
        weights=(1.0,),
        names=("r",),
        group=2,
        micro=None,
        prompts=None,
        policy=None,
        callbacks=(),
        **options,
    ):
        size = len(batches[0])
        micro = micro or size
        given = iter(batches)
        seen = []

        def rollout(rows, trainer):
            seen.append([dict(row) for row in rows])
            return next(given)

        args = GRPOConfig(
            **{
                "output_dir": str(tmp_path / "checkpoints"),
                "max_steps": len(batches),
                "per_device_train_batch_size": micro,
                "gradient_accumulation_steps": size // micro,
                "steps_per_generation": size // micro,
                "num_generations": group,
                "max_completion_length": 64,
                "learning_rate": 1e-2,
                "lr_scheduler_type": "constant",
                "temperature": 1.0,
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
                "report_to": [],
                "disable_tqdm": True,
                "logging_steps": 1,
                "save_strategy": "no",
                "shuffle_dataset": False,
                **options,
            }
        )
        prompts = prompts or [str(index) for index in range(size // group * len(batches))]
        trainer = HostGRPOTrainer(
            model=policy or tiny.adapted(),
            args=args,
            train_dataset=Dataset.from_list(
                [{"prompt": prompt, "slot": index} for index, prompt in enumerate(prompts)]
            ),
            tokenizer=tiny.tokenizer(),
            rollout=rollout,
            reward_names=list(names),
            reward_weights=list(weights),
            importance_sampling=ImportanceSampling(mode, cap),
            callbacks=callbacks,
        )
        trainer.seen = seen
        return trainer

    return make


def scored(trainer, slots=None):
    """TRL's batch for the first rollout: what the loss is computed from."""
    slots = slots or [index // trainer.num_generations for index in range(trainer.args.generation_batch_size)]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer._generate_and_score_completions([{"prompt": str(slot), "slot": slot} for slot in slots])


def logprobs_of(trainer, batch):
    """What the policy as it is says of the batch's completions, by the model alone."""
    import torch

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = trainer.model(input_ids=ids, attention_mask=attention).logits[:, :-1]
    logits = logits[:, -batch["completion_ids"].size(1) :] / trainer.args.temperature
    chosen = batch["completion_ids"].unsqueeze(-1)
    return torch.log_softmax(logits, dim=-1).gather(-1, chosen).squeeze(-1)


def loss_mask(batch):
    return batch["completion_mask"] * batch["tool_mask"]


def gradients(trainer, batch):
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    return {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


def differ(first, second):
    import torch

    return any(not torch.allclose(first[name], second[name], atol=1e-7) for name in first)


def metric(trainer, name):
    return trainer._metrics["train"][name]


def test_a_step_changes_the_adapter_and_logs_the_rewards(make):
    import torch

    trainer = make([trajectory(PLAIN, r=1.0), trajectory(LONGER, r=0.0)])
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    changed = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all("lora_" in name for name in changed)
    log = trainer.state.log_history[0]
    assert (log["reward"], log["rewards/r/mean"], log["completions/clipped_ratio"]) == (0.5, 0.5, 0.0)


def test_rows_are_asked_for_once_each_and_in_order(make):
    """TRL 1 and 2: prompts are repeated by TRL, so one trajectory a prompt; rows are known by slot."""
    batch = [trajectory(PLAIN, r=float(index % 2)) for index in range(4)]
    trainer = make(batch, batch, prompts=["same"] * 4)
    trainer.train()
    slots = [[row["slot"] for row in rows] for rows in trainer.seen]
    assert slots == [[0, 0, 1, 1], [2, 2, 3, 3]]


@pytest.mark.parametrize("count", [0, 3, 5, 8])
def test_more_or_fewer_trajectories_than_prompts_are_refused(make, count):
    """TRL 1: over-returning would crash deep inside TRL, or shift groups."""
    trainer = make([trajectory(PLAIN, r=1.0)] * 4)
    trainer.rollout = lambda rows, trainer: [trajectory(PLAIN, r=1.0)] * count
    with pytest.raises(ValueError, match=f"{count} trajectories for 4 prompts"):
        trainer.train()


def test_each_row_keeps_its_own_reward_ids_and_mask(make):
    """TRL 2, 3, 7 and 9: identical prompts do not collide; columns are lists of one value a row."""
    batch = scored(
        make([trajectory(PLAIN, r=0.0), trajectory(WITH_TOOL, r=1.0)], scale_rewards="none"), slots=[0, 0]
    )
    assert batch["completion_ids"][1].tolist() == WITH_TOOL.ids[2:]
    assert batch["completion_ids"][0].tolist() == [*PLAIN.ids[3:], *[END] * 6]
    assert batch["prompt_ids"].tolist() == [[2, 3, 4], [END, 2, 3]]
    assert batch["prompt_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert loss_mask(batch).tolist() == [[1] * 4 + [0] * 6, [1] * 3 + [0] * 4 + [1] * 3]
    assert batch["sampling_per_token_logps"][1].tolist() == WITH_TOOL.logprobs[2:]
    assert batch["advantages"].tolist() == [-0.5, 0.5]


def test_rewards_are_summed_by_weight_and_logged_part_by_part(make):
    """TRL 8: the rewards are the host's, from whole trajectories, never of the flattened text."""
    trainer = make(
        [trajectory(PLAIN, tone=0.5, facts=1.0), trajectory(LONGER, tone=0.25, facts=0.0)],
        names=["tone", "facts"],
        weights=[2.0, -1.0],
    )
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["rewards/tone/mean"] == 0.375
    assert log["rewards/facts/mean"] == 0.5
    assert log["reward"] == pytest.approx((0.0 + 0.5) / 2)


def test_a_failed_episode_is_out_of_the_baseline_and_moves_nothing(make):
    """TRL 10 and 12: a masked end token, None from every reward, zero advantage."""
    import torch

    failed = trajectory(status="failed", r=0.0)
    three = [trajectory(PLAIN, r=0.0), trajectory(LONGER, r=1.0), trajectory(WITH_TOOL, r=0.5)]
    trainer = make([*three, failed], group=4, scale_rewards="none")
    batch = scored(trainer)
    assert batch["advantages"].tolist() == [-0.5, 0.5, 0.0, 0.0]
    assert loss_mask(batch)[3].sum() == 0
    with_failed = gradients(trainer, batch)
    without = scored(make(three, group=3, scale_rewards="none", policy=trainer.model))
    assert without["advantages"].tolist() == batch["advantages"].tolist()[:3]
    expected = gradients(trainer, without)
    for name, gradient in expected.items():
        torch.testing.assert_close(with_failed[name], gradient)
    assert metric(trainer, "reward") == [0.5]


def test_a_zero_reward_is_not_a_failure(make):
    batch = scored(make([trajectory(PLAIN, r=0.0), trajectory(LONGER, r=1.0)], scale_rewards="none"))
    assert batch["advantages"].tolist() == [-0.5, 0.5]
    assert loss_mask(batch).sum() == 10


def test_a_trajectory_that_one_reward_failed_to_score_counts_as_unscored(make):
    """TRL 12: TRL would add up the parts that are there, which is another reward."""
    half = dataclasses.replace(
        trajectory(LONGER, a=1.0, b=None),
        rewards={"a": RewardRecord(1.0), "b": RewardRecord(None, error="no")},
    )
    batch = scored(
        make([trajectory(PLAIN, a=1.0, b=0.0), half], names=["a", "b"], weights=[1, 1], scale_rewards="none")
    )
    assert batch["advantages"].tolist() == [0.0, 0.0]
    assert loss_mask(batch)[1].sum() == 0


def test_a_batch_in_which_everything_failed_changes_nothing(make):
    import torch

    trainer = make([trajectory(status="failed", r=0.0)] * 2)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert trainer.state.log_history[0]["reward"] is None


def test_a_failed_episode_alone_in_its_micro_batch_is_no_nan(make):
    batch = [trajectory(PLAIN, r=1.0), trajectory(status="failed", r=0.0), trajectory(LONGER, r=0.0),
             trajectory(WITH_TOOL, r=0.5)]  # fmt: skip
    trainer = make(batch, micro=1, group=4)
    trainer.train()
    log = trainer.state.log_history[0]
    assert math.isfinite(log["loss"])
    assert math.isfinite(log["grad_norm"])
    assert log["grad_norm"] > 0


def test_a_truncated_trajectory_is_trained_on_and_counted(make):
    """TRL 10: it ends on what was sampled, so that only a real cut is counted as one."""
    trainer = make([trajectory(CUT, status="truncated", r=0.0), trajectory(PLAIN, r=1.0)])
    batch = scored(trainer)
    assert loss_mask(batch)[0].sum() == 3
    assert metric(trainer, "completions/clipped_ratio") == [0.5]


def test_text_of_the_environment_after_the_last_word_does_not_look_truncated(make):
    """TRL 10: ids after the policy's end token are left off the row."""
    ended = sequence([2, 3], [10, 11, END], [30, 31])
    trainer = make([trajectory(ended, r=0.0), trajectory(PLAIN, r=1.0)])
    batch = scored(trainer)
    assert metric(trainer, "completions/clipped_ratio") == [0.0]
    assert 30 not in batch["completion_ids"]


# Episodes of several rows

FORKED = [
    trajectory(LONGER, WITH_TOOL, PLAIN, r=0.0),
    trajectory(CUT, r=1.0),
    trajectory(WITH_TOOL, LONGER, r=0.25),
    trajectory(PLAIN, status="failed"),
]


def adapter_gradients(make, batch, **options):
    """What one step puts into the adapter, by an optimizer that moves weights by the gradient itself."""
    trainer = make(batch, optim="sgd", max_grad_norm=0.0, learning_rate=1.0, **options)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_" in n}
    trainer.train()
    return {n: before[n] - p.detach() for n, p in trainer.model.named_parameters() if n in before}


def reference_gradients(tiny, batch, group=2):
    """By hand: - 1/N sum of A_e w_r grad log p(t), token by token, over every sequence as it is."""
    import torch

    model = tiny.adapted()
    counted = [item for item in batch if item.reward is not None]
    tokens = sum(s.sampled for item in counted for s in item.ledger.sequences if s.weight)
    loss = torch.zeros(())
    for start in range(0, len(batch), group):
        members = [item for item in batch[start : start + group] if item.reward is not None]
        rewards = torch.tensor([item.reward for item in members])
        for item in members:
            advantage = (item.reward - rewards.mean()) / (rewards.std() + 1e-4) if len(members) > 1 else 0.0
            for context in item.ledger.sequences:
                said = model(input_ids=torch.tensor([context.ids])).logits[0]
                for at, sampled in enumerate(context.mask):
                    if sampled:
                        left = said[at - 1] + allowed_by_hand(context, at, said.size(1)).log()
                        chosen = torch.log_softmax(left, dim=-1)[context.ids[at]]
                        loss = loss - advantage * context.weight * chosen / tokens
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if "lora_" in n}


def allowed_by_hand(sequence, at, size):
    """1 for what stood to choose at ``at``: under ``constrained``, a 0, then two or three of 5 to 9, then the end."""
    import torch

    [constraint] = sequence.constraints or [None]
    if constraint is None or not constraint.start <= at < constraint.end:
        return torch.ones(size)
    place = at - constraint.start
    digits = [7, 8, 9, 10, 11]
    chosen = {0: [2], 1: digits, 2: digits, 3: [*digits, END]}.get(place, [END])
    return torch.tensor([1.0 if id in chosen else 0.0 for id in range(size)])


def constrained(prompt, ids):
    """``ids`` sampled behind ``prompt`` under a grammar."""
    made = sequence(prompt, ids)
    parts = [{"type": "const_string", "value": "0"}, {"type": "regex", "pattern": "[5-9]{2,3}"}]
    tag = {"type": "structural_tag", "format": {"type": "sequence", "elements": parts}}
    limit = TokenConstraint(len(prompt), len(prompt) + len(ids), json.dumps(tag), [END])
    return dataclasses.replace(made, constraints=[limit])


def assert_same(found, wanted):
    import torch

    assert found.keys() == wanted.keys()
    assert any(bool(value.any()) for value in wanted.values())
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_every_sequence_of_an_episode_is_trained_as_a_reference_by_hand_does(make, tiny, micro):
    found = adapter_gradients(make, FORKED, micro=micro, mode="none")
    assert_same(found, reference_gradients(tiny, FORKED))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("micro", [1, 4])
def test_constrained_tokens_are_trained_as_a_reference_by_hand_does(make, tiny, monkeypatch, micro, fast):
    from grpo_host.training.cpu import fast_pass

    batch = [
        trajectory(constrained([2, 3, 4], [2, 7, 8, END]), PLAIN, r=0.0),
        trajectory(constrained([2, 3, 4], [2, 9, 11, 10, END]), r=1.0),
        trajectory(WITH_TOOL, r=0.25),
        trajectory(constrained([2, 3], [2, 7]), r=0.75),  # cut by max_tokens
    ]
    if not fast:
        monkeypatch.setattr(fast_pass, "packable_model", lambda _: None)
    assert_same(adapter_gradients(make, batch, micro=micro, mode="none"), reference_gradients(tiny, batch))


def test_a_penalty_for_leaving_the_reference_compares_what_the_grammar_left(make):
    batch = [trajectory(constrained([2, 3, 4], [2, 7, 8, END]), r=value) for value in (0.0, 1.0)]
    trainer = make(batch, beta=0.1)
    found = scored(trainer)
    assert found["ref_per_token_logps"][:, 0].tolist() == [0.0, 0.0]  # the id that alone was allowed
    assert found["limits"].shape == found["completion_ids"].shape


def test_a_sequences_weight_is_a_factor_of_its_loss(make, tiny):
    half = dataclasses.replace(WITH_TOOL, weight=0.5)
    fixed = dataclasses.replace(LONGER, weight=0.0)
    batch = [trajectory(PLAIN, half, fixed, r=0.0), trajectory(CUT, r=1.0)]
    assert_same(adapter_gradients(make, batch, mode="none"), reference_gradients(tiny, batch))


def test_an_episode_in_two_rows_weighs_as_in_one(make):
    """The turns of a context that was forked where it need not have been teach what they did unforked."""
    whole = sequence([2, 3], [10, 11, END], [30, 31], [12, 13, END])
    first = sequence([2, 3], [10, 11, END])
    second = sequence([2, 3, 10, 11, END, 30, 31], [12, 13, END])
    others = [trajectory(PLAIN, r=1.0)]
    one = adapter_gradients(make, [trajectory(whole, r=0.0), *others], mode="none")
    two = adapter_gradients(make, [trajectory(first, second, r=0.0), *others], mode="none")
    assert_same(two, one)


def test_a_baseline_is_over_episodes_and_not_over_rows(make):
    """Three rows with a reward of 0 beside one with 1: the mean of the group is 0.5."""
    batch = scored(make([trajectory(LONGER, PLAIN, CUT, r=0.0), trajectory(PLAIN, r=1.0)]))
    advantages = batch["advantages"].tolist()
    assert advantages[:3] == [pytest.approx(-advantages[3])] * 3


def test_the_loss_is_divided_by_the_tokens_of_all_rows(make):
    batch = scored(make([trajectory(LONGER, PLAIN, r=0.0), trajectory(PLAIN, r=1.0)]))
    assert int(batch["num_items_in_batch"]) == 6 + 4 + 4


def test_micro_batches_stay_within_their_size_however_many_rows_there_are(make):
    """Memory is planned for ``micro_batch`` rows; the rest of them waits for its own pass."""
    trainer = make(FORKED, micro=2)
    sizes = []
    inner = trainer._loss_of
    trainer._loss_of = lambda model, inputs: (sizes.append(len(inputs["advantages"])), inner(model, inputs))[
        1
    ]
    trainer.train()
    assert sizes == [2, 2, 2, 2]  # seven rows, and one that fills up


ONE_STEP = """
import os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig
from grpo_host.training.trl.trainer import HostGRPOTrainer, ImportanceSampling
from grpo_sdk.trajectory import Trajectory

folder, out = map(Path, sys.argv[1:])
items = [Trajectory.from_json(line) for line in (folder / "played.jsonl").read_bytes().splitlines()]
base = AutoModelForCausalLM.from_pretrained(folder / "base")
rows = len(items) // int(os.environ.get("WORLD_SIZE", 1))
trainer = HostGRPOTrainer(
    model=PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True),
    args=GRPOConfig(
        output_dir=str(out), max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=rows,
        steps_per_generation=rows, num_generations=2, learning_rate=1.0, optim="sgd", max_grad_norm=0.0,
        lr_scheduler_type="constant", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        disable_tqdm=True, save_strategy="no", shuffle_dataset=False,
    ),
    train_dataset=Dataset.from_list([{"prompt": str(slot), "slot": slot} for slot in range(len(items) // 2)]),
    tokenizer=AutoTokenizer.from_pretrained(folder / "base"),
    rollout=lambda rows, _: [items[2 * row["slot"] + index % 2] for index, row in enumerate(rows)],
    reward_names=["r"], reward_weights=[1.0], importance_sampling=ImportanceSampling("none"),
)
trainer.train()
trainer.accelerator.unwrap_model(trainer.model).save_pretrained(out / str(trainer.accelerator.process_index))
"""


@pytest.mark.slow
def test_two_ranks_with_different_numbers_of_rows_make_the_update_of_one(tiny, tmp_path):
    from safetensors.torch import load_file

    policy = tiny.adapted()
    policy.save_pretrained(tmp_path / "adapter")
    policy.unload().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    played = [*FORKED[:2], trajectory(PLAIN, task="u", r=0.25), trajectory(CUT, task="u", r=0.0)]
    (tmp_path / "played.jsonl").write_bytes(b"\n".join(item.to_json() for item in played))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])

    def start(rank, ranks, out):
        launched = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", ONE_STEP, str(tmp_path), str(tmp_path / out)]
        return subprocess.Popen(command, env={**os.environ, **(launched if ranks > 1 else {})})

    started = [start(0, 2, "two"), start(1, 2, "two")]
    assert [process.wait(240) for process in started] == [0, 0]
    assert start(0, 1, "one").wait(240) == 0
    begun = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    alone = load_file(tmp_path / "one" / "0" / "adapter_model.safetensors")
    for rank in (0, 1):
        beside = load_file(tmp_path / "two" / str(rank) / "adapter_model.safetensors")
        assert_same(
            {name: begun[name] - value for name, value in beside.items()},
            {name: begun[name] - value for name, value in alone.items()},
        )


def test_masked_tokens_get_no_gradient(make):
    """TRL 7: what the environment said moves nothing, whatever logprob it is given."""
    trainer = make([trajectory(PLAIN, r=0.0), trajectory(WITH_TOOL, r=1.0)])
    batch = scored(trainer)
    inside = loss_mask(batch).bool()
    seen = {}
    real = trainer._get_per_token_logps_and_entropies

    def watch(*args, **kwargs):
        result = real(*args, **kwargs)
        result[0].retain_grad()
        seen["logps"] = result[0]
        return result

    trainer._get_per_token_logps_and_entropies = watch
    gradients(trainer, batch)
    assert seen["logps"].grad[~inside].abs().max() == 0
    assert (seen["logps"].grad[inside].abs() > 0).all()


def with_two_logprobs(make, **options):
    """Trainer and gradients for one policy, of a batch that was sampled with either of two log-probs."""
    policy = None
    for logprob in (-4.0, -3.0):
        batch = [
            trajectory(sequence([2, 3], [10, 11, END], logprob=logprob), r=0.0),
            trajectory(PLAIN, r=1.0),
        ]
        trainer = make(batch, policy=policy, **options)
        policy = trainer.model
        yield trainer, gradients(trainer, scored(trainer))


def test_importance_sampling_is_live(make):
    """TRL 3 and 4: the log-probs that the backend sampled with reach the loss."""
    assert differ(*(result for _, result in with_two_logprobs(make)))


def test_without_importance_sampling_the_sampling_logprobs_do_not_matter(make):
    """TRL 4: mode none is off."""
    results = []
    for trainer, result in with_two_logprobs(make, mode="none"):
        assert not metric(trainer, "sampling/importance_sampling_ratio/mean")
        results.append(result)
    assert not differ(*results)


def test_exact_logprobs_need_no_correction(make):
    """TRL 4 and 6: a backend that samples at the training temperature gives a ratio of one."""
    import torch

    first = make([trajectory(PLAIN, r=0.0), trajectory(WITH_TOOL, r=1.0)], temperature=0.7)
    batch = scored(first)
    exact = logprobs_of(first, batch).detach()

    def with_exact(given, row):
        start = given.prompt_length
        values = exact[row].tolist()
        logprobs = [0.0] * start + [
            values[index] if sampled else 0.0 for index, sampled in enumerate(given.mask[start:])
        ]
        return dataclasses.replace(given, logprobs=logprobs)

    trajectories = [trajectory(with_exact(PLAIN, 0), r=0.0), trajectory(with_exact(WITH_TOOL, 1), r=1.0)]
    corrected = make(trajectories, policy=first.model, temperature=0.7)
    plain = make(trajectories, policy=first.model, temperature=0.7, mode="none")
    expected = gradients(plain, scored(plain))
    for name, gradient in gradients(corrected, scored(corrected)).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)
    for name in ("min", "mean", "max"):
        [ratio] = metric(corrected, f"sampling/importance_sampling_ratio/{name}")
        assert ratio == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("cap", [0.5, 2.0, 50.0])
def test_the_ratio_is_trls_own(make, mode, cap):
    """TRL 4 and 5: the correction that TRL makes for its own vLLM, formula by formula."""
    import torch

    spread = [-5.0, -3.0, -4.5, -2.0, -6.0, -4.0]
    trajectories = [
        trajectory(sequence([2, 3], [10, 11, END], [30, 31], [12, 13, END], logprob=spread), r=0.0),
        trajectory(sequence([2, 3, 4], [20, 21, 22, 23, 24, END], logprob=spread[::-1]), r=1.0),
    ]
    trainer = make(trajectories, mode=mode, cap=cap)
    batch = scored(trainer)
    trainer.compute_loss(trainer.model, batch)
    ours = batch["importance_sampling_ratio"]

    # grpo_trainer.py of TRL 1.16, "Compute the importance sampling ratio when using vLLM".
    mask = loss_mask(batch)
    difference = (logprobs_of(trainer, batch).detach() - batch["sampling_per_token_logps"]) * mask
    if mode.startswith("sequence"):
        difference = difference.sum(dim=-1, keepdim=True)
    ratio = torch.exp(difference)
    if mode.endswith("truncate"):
        expected = torch.clamp(ratio, max=cap)
    else:
        expected = ratio.masked_fill(ratio > cap, value=0.0)
    assert ours.shape == expected.shape
    inside = mask.bool() if mode.startswith("token") else torch.ones_like(expected).bool()
    torch.testing.assert_close(ours[inside], expected[inside], rtol=1e-3, atol=1e-5)


def test_the_ratio_multiplies_the_loss(make):
    """TRL 4: the gradient of each token is scaled by its own ratio, once."""
    import torch

    trajectories = [trajectory(PLAIN, r=0.0), trajectory(WITH_TOOL, r=1.0)]
    trainer = make(trajectories, cap=100.0)
    batch = scored(trainer)
    mask = loss_mask(batch)
    logprobs = logprobs_of(trainer, batch)
    ratio = torch.exp((logprobs - batch["sampling_per_token_logps"]) * mask).detach()
    # dapo: the mean over all tokens of the batch of -advantage * ratio * π/π_old, where π is π_old.
    expected = -(batch["advantages"].unsqueeze(1) * ratio * torch.exp(logprobs - logprobs.detach()) * mask)
    trainer.model.zero_grad()
    (expected.sum() / mask.sum()).backward()
    by_hand = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    ours = gradients(trainer, batch)
    for name, gradient in by_hand.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-6)


def test_the_ratio_and_the_drift_are_logged(make):
    """TRL 5: a run that loses its gradient to the cap shows it."""
    trainer = make([trajectory(PLAIN, r=0.0), trajectory(LONGER, r=1.0)], cap=1e-6)
    trainer.train()
    log = trainer.state.log_history[0]
    low, mean, high = (log[f"sampling/importance_sampling_ratio/{name}"] for name in ("min", "mean", "max"))
    assert 0 < low < mean < high
    assert log["sampling/importance_sampling_ratio/capped"] == 1.0
    assert 0 < log["sampling/sampling_logp_difference/mean"] < log["sampling/sampling_logp_difference/max"]


def test_trls_own_engine_is_never_started(make):
    """TRL 4, 14, 15 and 16: use_vllm is set for the loss alone, so no client and no sleep mode exist."""
    trainer = make([trajectory(PLAIN, r=0.0), trajectory(LONGER, r=1.0)])
    assert trainer.args.use_vllm is False
    seen = []
    rollout = trainer.rollout
    trainer.rollout = lambda rows, it: (seen.append(it.use_vllm), rollout(rows, it))[1]
    trainer.train()
    assert seen == [False]
    assert trainer.use_vllm is False
    assert not hasattr(trainer, "vllm_generation")


def test_use_vllm_is_unset_also_after_an_error(make):
    trainer = make([trajectory(PLAIN, r=0.0), trajectory(LONGER, r=1.0)])
    batch = scored(trainer)
    del batch["advantages"]
    with pytest.raises(KeyError):
        trainer.compute_loss(trainer.model, batch)
    assert trainer.use_vllm is False
    assert trainer._loss_inputs is None


def test_trls_tool_loop_and_environments_are_not_used(make):
    """TRL 7 and 17 to 21: with tools or environment_factory TRL would run a second loop on our rows."""
    trainer = make([trajectory(PLAIN, r=0.0), trajectory(LONGER, r=1.0)])
    assert not trainer.tools
    assert trainer.environment_factories is None


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
def test_logprobs_are_those_of_the_sampling_temperature(make, temperature):
    """TRL 6: the policy is compared at the temperature that it was sampled at."""
    import torch

    trainer = make([trajectory(PLAIN, r=0.0), trajectory(LONGER, r=1.0)], temperature=temperature)
    batch = scored(trainer)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logps = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, attention, batch["completion_ids"].size(1)
    )[0]
    mask = loss_mask(batch).bool()
    torch.testing.assert_close(logps[mask], logprobs_of(trainer, batch)[mask], rtol=1e-4, atol=1e-4)


def test_each_batch_is_sampled_by_the_policy_that_it_improves(make):
    """TRL, resume: steps_per_generation is the accumulation, so a batch is one optimizer step."""
    batch = [
        trajectory(PLAIN, r=0.0),
        trajectory(LONGER, r=1.0),
        trajectory(CUT, r=0.0),
        trajectory(PLAIN, r=1.0),
    ]
    trainer = make(batch, batch, batch, micro=1)
    steps = []
    rollout = trainer.rollout
    trainer.rollout = lambda rows, it: (steps.append(it.state.global_step), rollout(rows, it))[1]
    trainer.train()
    assert steps == [0, 1, 2]
    assert "old_per_token_logps" not in trainer._buffered_inputs[0]


def test_micro_batches_give_the_gradient_of_the_whole(make):
    import torch

    batch = [
        trajectory(PLAIN, r=0.0),
        trajectory(LONGER, r=1.0),
        trajectory(WITH_TOOL, r=0.5),
        trajectory(CUT, r=1.0),
    ]
    steps = []
    for micro in (1, 2, 4):
        trainer = make(batch, micro=micro, optim="sgd", max_grad_norm=0.0)
        trainer.train()
        steps.append({n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_" in n})
    for other in steps[1:]:
        for name, parameter in steps[0].items():
            torch.testing.assert_close(other[name], parameter, rtol=1e-3, atol=1e-6)


def test_a_trained_policy_says_more_of_what_was_rewarded(make):
    good, bad = sequence([2, 3], [10, 11, END]), sequence([2, 3], [20, 21, END])
    trainer = make(*[[trajectory(good, r=1.0), trajectory(bad, r=0.0)]] * 10, mode="none")
    batch = scored(trainer)
    before = (logprobs_of(trainer, batch) * loss_mask(batch)).sum(dim=1)
    trainer = make(
        *[[trajectory(good, r=1.0), trajectory(bad, r=0.0)]] * 10, mode="none", policy=trainer.model
    )
    trainer.train()
    after = (logprobs_of(trainer, batch) * loss_mask(batch)).sum(dim=1)
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_a_completion_longer_than_trls_limit_is_not_cut(make):
    """TRL 11: max_completion_length is not enforced on rollouts; the backend's context is the limit."""
    trainer = make([trajectory(LONGER, r=0.0), trajectory(PLAIN, r=1.0)], max_completion_length=2)
    assert loss_mask(scored(trainer))[0].sum() == 6


def several(count):
    """Batches of one group, whose rows are of different lengths: their sums hang on the rows' order."""
    rows = [sequence([2, 3, 4], [10 + i, 20, *range(30, 30 + i), END]) for i in range(4)]
    return [[trajectory(row, r=i * 0.3 + step) for i, row in enumerate(rows)] for step in range(count)]


@pytest.fixture
def going_on(make, tmp_path):
    """Train ``first`` on batches, and with ``then`` on the rest of them from the checkpoint of ``step``."""
    import torch

    def going_on(batches, step, *, first=None, then=None):
        same = {"micro": 2, "group": 4, "save_strategy": "steps", "save_steps": 1, "ignore_data_skip": True}
        first = {**same, "max_steps": len(batches), **(first or {})}
        begun = make(*batches[: first["max_steps"]], **first)
        begun.train()
        torch.rand(7)  # another process has drawn other numbers until here
        again = make(*batches[step:], **{**same, "max_steps": len(batches), **(then or {})})
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / f"checkpoint-{step}"))
        return begun, again

    return going_on


def logged(trainer):
    """What was logged of each step, without what is of the process."""
    lines = [line for line in trainer.state.log_history if "loss" in line]
    return {
        line["step"]: {k: v for k, v in line.items() if k not in ("epoch", "step_time")} for line in lines
    }


def test_a_step_that_is_done_again_is_the_same_to_the_last_bit(going_on):
    begun, again = going_on(several(4), 1)

    assert logged(begun) == logged(again)
    ends = [dict(trainer.model.named_parameters()) for trainer in (begun, again)]
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


def test_a_run_that_goes_on_takes_the_rate_that_it_is_given(going_on):
    _, again = going_on(several(3), 2, first={"max_steps": 2}, then={"learning_rate": 4e-3})

    assert [line["learning_rate"] for line in logged(again).values()] == [1e-2, 1e-2, 4e-3]
    assert [group["lr"] for group in again.optimizer.param_groups] == [4e-3] * len(
        again.optimizer.param_groups
    )


def test_a_schedule_is_that_of_all_steps_also_where_more_are_given(going_on):
    linear = {"lr_scheduler_type": "linear"}
    _, again = going_on(several(5), 2, first={"max_steps": 2, **linear}, then=linear)

    rates = [line["learning_rate"] for line in logged(again).values()]
    assert rates[2:] == pytest.approx([6e-3, 4e-3, 2e-3])


def test_a_run_that_goes_on_saves_as_often_as_it_is_told_now(going_on, tmp_path):
    going_on(several(4), 1, first={"max_steps": 1}, then={"save_steps": 3})

    saved = {path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")}
    assert saved == {"checkpoint-1", "checkpoint-3", "checkpoint-4"}


def after_each_step(make, *batches, **options):
    """Trains on ``batches``: the trainer, and the weights of the adapter after each step."""
    from transformers import TrainerCallback

    class Remember(TrainerCallback):
        def on_step_end(self, args, state, control, *, model, **_):
            weights.append({n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n})

    weights = []
    trainer = make(*batches, callbacks=[Remember()], **options)
    trainer.train()
    return trainer, weights


def step_logs(trainer, name):
    return [line[name] for line in trainer.state.log_history if "loss" in line]


def updates(trainer):
    """How many updates the optimizer has made of each weight."""
    return {int(state["step"]) for state in trainer.optimizer.state.values()}


def spoil(policy, *calls):
    """Makes one gradient of ``policy`` infinite in these backward passes, counted from 0."""
    passes = iter(range(1000))
    parameter = next(p for p in policy.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * (math.inf if next(passes) in calls else 1))
    return policy


GOOD_AND_BAD = [trajectory(PLAIN, r=1.0), trajectory(LONGER, r=0.0)]


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask", "none"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_token_sampled_without_a_finite_logprob_has_the_ratio_1(make, value, mode):
    broken = sequence(PLAIN.ids[:3], PLAIN.ids[3:], logprob=[value, -4.0, -4.0, -4.0])
    trainer = make([trajectory(broken, r=1.0), trajectory(LONGER, r=0.0)], mode=mode)
    batch = scored(trainer)
    moved = gradients(trainer, batch)
    told = batch["sampling_per_token_logps"].clone()
    told[0, 0] = logprobs_of(trainer, batch)[0, 0].detach()
    expected = gradients(trainer, {**batch, "sampling_per_token_logps": told})
    assert not differ(moved, expected)
    assert trainer._nonfinite_logprobs == 1


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_token_that_the_trainer_gives_no_finite_logprob_moves_nothing_and_is_counted(make, tiny, beta):
    import torch

    policy = tiny.adapted()
    never = torch.zeros(tiny.vocabulary)
    never[PLAIN.ids[4]] = -math.inf
    policy.get_base_model().lm_head.bias = torch.nn.Parameter(never, requires_grad=False)
    trainer, weights = after_each_step(make, GOOD_AND_BAD, GOOD_AND_BAD, policy=policy, beta=beta)
    assert differ(*weights)
    assert all(torch.isfinite(weight).all() for weight in weights[-1].values())
    assert step_logs(trainer, "sampling/nonfinite_logprobs") == [1, 1]
    assert all(map(math.isfinite, step_logs(trainer, "loss") + step_logs(trainer, "grad_norm")))


def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_momentum(make, tiny):
    trainer, weights = after_each_step(
        make, *[GOOD_AND_BAD] * 3, policy=spoil(tiny.adapted(), 1), lr_scheduler_type="linear"
    )
    assert not differ(weights[0], weights[1])
    assert differ(weights[1], weights[2])
    assert updates(trainer) == {2}
    assert step_logs(trainer, "update/skipped_nonfinite") == [0, 1, 0]
    assert step_logs(trainer, "learning_rate") == pytest.approx([1e-2, 2e-2 / 3, 1e-2 / 3])
    assert not math.isfinite(step_logs(trainer, "grad_norm")[1])


def test_gradients_that_stay_not_finite_stop_the_run(make, tiny):
    import torch

    policy = spoil(tiny.adapted(), 1, 2, 3, 4)
    trainer = make(*[GOOD_AND_BAD] * 6, policy=policy)
    with pytest.raises(
        RunError, match=r"of 3 updates in a row are not finite \(now in .*lora_A.*Lower the learn"
    ):
        trainer.train()
    assert trainer.state.global_step == 3
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())


def test_gradients_that_are_seldom_not_finite_do_not_stop_the_run(make, tiny):
    trainer, _ = after_each_step(make, *[GOOD_AND_BAD] * 6, policy=spoil(tiny.adapted(), 0, 1, 3, 4))
    assert step_logs(trainer, "update/skipped_nonfinite") == [1, 1, 0, 1, 1, 0]


def test_an_update_that_the_weights_cannot_hold_stops_the_run(make):
    trainer = make(*[GOOD_AND_BAD] * 2, learning_rate=1e39)
    with pytest.raises(RunError, match=r"after step 1 the weights are not finite \(in .*lora_.*--resume"):
        trainer.train()


# Of three such rewards, float32 gives another mean.
SAME = [trajectory(PLAIN, r=7.7), trajectory(LONGER, r=7.7), trajectory(WITH_TOOL, r=7.7)]
OTHER = [trajectory(PLAIN, r=7.7), trajectory(LONGER, r=0.0), trajectory(WITH_TOOL, r=7.7)]


def test_a_step_in_which_no_group_differs_moves_nothing(make):
    """Momentum alone would move the weights, and so would what rounding leaves of equal rewards."""
    trainer, weights = after_each_step(make, OTHER, SAME, OTHER, group=3)
    assert not differ(weights[0], weights[1])
    assert differ(weights[1], weights[2])
    assert updates(trainer) == {2}
    assert step_logs(trainer, "update/skipped_nothing_to_learn") == [0, 1, 0]
    assert step_logs(trainer, "entropy")[1] > 0


def test_a_group_that_does_not_differ_has_no_advantage_beside_one_that_does(make):
    batch = scored(make([*SAME, *OTHER], group=3))
    assert batch["advantages"][:3].tolist() == [0, 0, 0]
    assert batch["advantages"][3:].abs().min() > 0.5


def test_with_a_penalty_there_is_always_something_to_learn(make):
    trainer, _ = after_each_step(make, OTHER, SAME, group=3, beta=0.1)
    assert step_logs(trainer, "update/skipped_nothing_to_learn") == [0, 0]


def test_what_the_trainer_makes_of_tokens_is_recorded_where_they_stand_in_the_episode(make):
    from grpo_host.training.trl.recorded_tokens import TokenRecorder

    two = trajectory(CUT, sequence([5, 6], [50, 51, END]), r=0.0)
    played = [trajectory(WITH_TOOL, r=1.0), two, trajectory(PLAIN, r=1.0), trajectory(PLAIN, r=0.0)]
    played = [dataclasses.replace(item, id=f"1/t/{number}") for number, item in enumerate(played)]
    trainer = make(played, micro=2)
    lines = []
    trainer.record_tokens = TokenRecorder(2, lines.append)
    trainer.train()
    found = {(line["id"], line["sequence"]): line for line in lines}
    assert set(found) == {("1/t/0", 0), ("1/t/1", 0), ("1/t/1", 1)}
    assert len(lines) == 3
    tool = found["1/t/0", 0]
    assert (tool["step"], tool["start"]) == (1, 2)
    for name in ("logprob", "entropy", "ratio"):
        assert [value is not None for value in tool[name]] == [bool(m) for m in WITH_TOOL.mask[2:]]
        assert all(value is not None for value in found["1/t/1", 1][name])
    for name, own in (("1/t/0", 1), ("1/t/1", -1)):
        assert found[name, 0]["advantage"] == pytest.approx(own * 2**-0.5, abs=1e-3)
    at = [math.exp(value + 4.0) for value in found["1/t/1", 0]["logprob"]]
    assert found["1/t/1", 0]["ratio"] == pytest.approx([min(ratio, 2.0) for ratio in at], abs=1e-3)
