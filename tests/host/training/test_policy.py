from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import ClassVar

import pytest

from grpo_host.config.schema import LoraConfig, TrainingConfig
from grpo_host.rollouts.scoring import WeightedReward
from grpo_sdk import Backend, ModelSpec, reward
from grpo_sdk.errors import BusyError, ModelError, RunError

pytestmark = pytest.mark.model

LORA = LoraConfig(r=4)


@pytest.fixture
def path(tiny, tmp_path):
    """A small model as a directory."""
    model = tiny.model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(path, **options):
    from grpo_host.training.policy import load_policy

    return load_policy(path, **{"dtype": "bfloat16", "lora": LORA, "adapter": None, "seed": 0, **options})


def trained(policy):
    return {n: p.detach().clone() for n, p in policy.model.named_parameters() if p.requires_grad}


def disturb(policy):
    import torch

    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter).mul_(0.1))
    return trained(policy)


def same(left, right):
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


def types(policy):
    return {str(p.dtype) for p in trained(policy).values()}


def test_what_is_trained_is_float32_under_mixed_precision(path):
    assert types(load(path)) == {"torch.float32"}
    assert types(load(path, lora=None)) == {"torch.float32"}


def test_without_mixed_precision_it_is_in_the_models_precision(path):
    assert types(load(path, mixed_precision=False)) == {"torch.bfloat16"}
    assert types(load(path, lora=None, mixed_precision=False)) == {"torch.bfloat16"}


def test_only_a_float32_model_that_computes_in_bfloat16_needs_autocast(path):
    assert load(path, lora=None).autocast
    assert not load(path, lora=None, dtype="float32").autocast
    assert not load(path, lora=None, mixed_precision=False).autocast
    assert not load(path).autocast


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_base_weights_of_few_bits_are_trained_below_a_float32_adapter(path, tmp_path, load_in, tiny):
    pytest.importorskip("bitsandbytes", reason="base weights of few bits need bitsandbytes")
    import torch

    from grpo_host.training.trl.grpo import grpo_arguments, make_trainer

    policy = load(path, load_in=load_in, dtype="float32")
    held = {type(module).__name__ for module in policy.model.modules()}
    assert held & {"Linear4bit", "Linear8bitLt"}
    made = disturb(policy)
    config = TrainingConfig(group_size=2)
    one = WeightedReward("one", reward(lambda trajectory: 1.0)())
    arguments = grpo_arguments(
        config, tmp_path, rows=2, steps=1, temperature=1.0, context=64, seed=0, saves=False
    )
    make_trainer(policy, arguments, slots=[0], rollout=lambda *_: [], rewards=[one], settings=config)
    assert same(trained(policy), made)  # TRL would round them to bfloat16
    assert types(policy) == {"torch.float32"}
    ids = torch.tensor([[2, 3, 4, 5]])
    policy.model.train()(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in policy.model.parameters() if p.requires_grad)
    policy.save(tmp_path / "saved")
    assert same(trained(load(path, load_in=load_in, dtype="float32", adapter=tmp_path / "saved")), made)


def test_only_what_was_rounded_meanwhile_is_put_back():
    import torch

    from grpo_host.training.lora import precision_kept

    rounded, moved = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    before = rounded.weight.detach().clone()
    elsewhere = moved.weight.detach().clone()  # as on another device
    with precision_kept(torch.nn.ModuleList([rounded, moved])):
        rounded.weight.data = rounded.weight.data.to(torch.bfloat16)
        moved.weight.data = elsewhere
    assert rounded.weight.dtype == torch.float32
    assert torch.equal(rounded.weight, before)
    assert moved.weight.data_ptr() == elsewhere.data_ptr()


@pytest.mark.parametrize("lora", [LORA, None], ids=["adapter", "whole"])
def test_saved_weights_are_taken_again(path, tmp_path, lora):
    policy = load(path, lora=lora, dtype="float32")
    before = disturb(policy)
    policy.save(tmp_path / "best")
    disturb(policy)
    policy.load(tmp_path / "best")
    assert same(trained(policy), before)


@pytest.mark.parametrize("lora", [LORA, None], ids=["adapter", "whole"])
def test_saved_weights_are_where_training_can_start(path, tmp_path, lora):
    policy = load(path, lora=lora, dtype="float32")
    before = disturb(policy)
    policy.save(tmp_path / "saved")
    assert same(trained(load(path, lora=lora, dtype="float32", adapter=tmp_path / "saved")), before)


FILE_CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.dlsym"}


def killed_while_it_saves(policy, target, call):
    """Save in a process that is killed at the file call number ``call``; False if it has fewer."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    calls = 0

    def kill(event, _):
        nonlocal calls
        if event not in FILE_CALLS:
            return
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(kill)
        policy.save(target)
    finally:
        os._exit(0)


@pytest.mark.parametrize("lora", [LORA, None], ids=["adapter", "whole"])
def test_a_save_that_is_killed_leaves_the_old_weights_or_the_new(path, tmp_path, lora):
    target = tmp_path / "best"
    policy = load(path, lora=lora, dtype="float32")
    old = disturb(policy)
    policy.save(target)
    new = disturb(policy)
    call = 1
    while killed_while_it_saves(policy, target, call):
        reader = load(path, lora=lora, dtype="float32", adapter=target)
        assert same(trained(reader), old) or same(trained(reader), new), f"killed at call {call}"
        call += 3
    assert call > 1, "it was killed at least once"
    assert same(trained(load(path, lora=lora, dtype="float32", adapter=target)), new)


def test_a_penaltys_reference_is_not_saved_with_the_adapter(path, tmp_path):
    policy = load(path)
    policy.model.add_adapter("ref", policy.model.peft_config["default"])
    policy.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "ref").exists()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_an_adapter_that_is_not_finite_is_refused(path, tmp_path):
    import torch

    policy = load(path)
    with torch.no_grad():
        next(p for p in policy.model.parameters() if p.requires_grad)[0, 0] = float("nan")
    policy.save(tmp_path / "broken")
    with pytest.raises(ModelError, match=r"the adapter at .*broken is not finite \(in .*lora_A"):
        load(path, adapter=tmp_path / "broken")


def test_a_whole_model_can_start_from_an_adapter(path, tmp_path):
    from grpo_host.training.weights import served_weights

    adapted = load(path, dtype="float32")
    disturb(adapted)
    adapted.save(tmp_path / "adapter")
    whole = load(path, lora=None, dtype="float32", adapter=tmp_path / "adapter")
    merged = dict(served_weights(adapted.model, "float32"))
    for name, weight in served_weights(whole.model, "float32"):
        assert weight.allclose(merged[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["nowhere"], "target_modules: Target modules .*The model has: down_proj"),
        (["lm_head"], "output layer"),
    ],
)
def test_modules_that_cannot_be_adapted_are_named_right_after_loading(tiny, path, targets, said):
    from grpo_sdk import ConfigError

    tiny.model(tie_word_embeddings=False).save_pretrained(path)
    with pytest.raises(ConfigError, match=rf"training\.lora\.{said}|the {said}"):
        load(path, lora=LoraConfig(target_modules=targets))


def test_an_adapter_of_another_model_is_refused(tiny, path, tmp_path):
    load(path).save(tmp_path / "adapter")
    other = tmp_path / "other"
    tiny.model(seed=9).save_pretrained(other)
    tiny.tokenizer().save_pretrained(other)
    with pytest.raises(ModelError, match=r"the adapter belongs to the model .*base, not to .*other"):
        load(other, adapter=tmp_path / "adapter")
    with pytest.raises(ModelError, match="belongs to the model"):
        load(other, adapter=tmp_path / "adapter", lora=None)


def test_an_adapter_says_by_its_hub_id_what_it_belongs_to_wherever_caches_lie(path, tmp_path):
    from grpo_sdk.adapters import adapter_settings

    policy = load(path, hub_id="org/tiny")
    policy.save(tmp_path / "adapter")
    assert adapter_settings(tmp_path / "adapter")["base_model_name_or_path"] == "org/tiny"
    moved = path.rename(tmp_path / "moved")
    again = load(moved, hub_id="org/tiny", adapter=tmp_path / "adapter")
    config = again.model.peft_config["default"]
    assert config.base_model_name_or_path == str(moved), "a checkpoint asks no hub"


class Busy(Backend):
    """Has requests under way for so many calls."""

    capabilities: ClassVar[frozenset] = frozenset()

    def __init__(self, calls):
        super().__init__(ModelSpec("busy"))
        self.calls = calls
        self.names: list[str] = []

    async def update_weights(self, weights, *, version):
        if self.calls:
            self.calls -= 1
            raise BusyError("requests are under way")
        self.names = [name for name, _ in weights]


async def test_new_weights_wait_for_requests_under_way(path):
    policy, backend = load(path), Busy(2)
    await policy.sync(backend)
    assert "model.layers.0.self_attn.q_proj.weight" in backend.names
    assert policy.version == 1


async def test_a_backend_that_is_never_idle_is_told_of(path, monkeypatch):
    monkeypatch.setattr("grpo_host.training.policy.IDLE_SECONDS", 0.1)
    with pytest.raises(BusyError):
        await load(path).sync(Busy(1000))


class Stuck(Busy):
    async def update_weights(self, weights, *, version):
        await asyncio.Event().wait()


async def test_a_backend_that_does_not_come_back_ends_the_run(path, monkeypatch):
    monkeypatch.setattr("grpo_host.training.policy.SYNC_SECONDS", 0.1)
    with pytest.raises(RunError, match=r"Stuck has not loaded the new weights within 0.1 s: it is stuck or"):
        await load(path).sync(Stuck(0))


def test_a_whole_model_is_saved_as_it_was_trained(path, tmp_path):
    import json

    policy = load(path, lora=None)
    before = disturb(policy)
    policy.save(tmp_path / "model")
    assert same(trained(load(path, lora=None, adapter=tmp_path / "model")), before)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float32"


def test_an_adapter_is_trained_on_a_whole_model_as_it_was_sampled_from(path, tmp_path):
    from grpo_host.training.weights import served_weights

    whole = load(path, lora=None)
    disturb(whole)
    whole.save(tmp_path / "model")
    base = load(tmp_path / "model").model.get_base_model().state_dict()
    for name, weight in served_weights(whole.model, "bfloat16"):
        owner, _, leaf = name.rpartition(".")
        assert weight.equal(base.get(name, base.get(f"{owner}.base_layer.{leaf}"))), name


@pytest.mark.filterwarnings("ignore:.*tie:UserWarning")
def test_an_adapter_on_tied_embeddings_is_refused_before_the_first_step(path):
    with pytest.raises(ModelError, match=r"embed_tokens.*lm_head.*training\.lora\.target_modules"):
        load(path, lora=LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]))


async def test_a_sync_says_how_much_of_the_update_the_backend_got(path):
    policy = load(path)
    await policy.sync(Busy(0))
    assert policy.visible_update is None
    disturb(policy)
    await policy.sync(Busy(0))
    assert policy.visible_update == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("lora", [LORA, None])
def test_saving_is_tried_without_weights_and_leaves_nothing(path, tmp_path, lora):
    policy = load(path, lora=lora)
    before = trained(policy)
    place = tmp_path / "checkpoints"
    place.mkdir()
    policy.try_saving(place)
    assert list(place.iterdir()) == []
    assert same(trained(policy), before)


def test_a_model_that_its_library_will_not_save_is_refused_for_what_it_is(path, tmp_path):
    policy = load(path, lora=None)
    policy.model.generation_config.temperature = -1.0
    with pytest.raises(RunError) as error:
        policy.try_saving(tmp_path)
    said = str(error.value)
    assert said.startswith(f"what is trained could not be saved in {tmp_path}: ")
    assert "temperature" in said
    assert said.endswith("Mend that and begin again; nothing has been trained yet")
