"""Ranks that share one model (FSDP2): what is refused, and that it trains as ranks with a copy each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.runs.directory import RunDirectory
from grpo_host.training.checkpoints import latest_checkpoint
from grpo_host.training.ranks import sharding
from grpo_host.training.ranks.process_group import join_ranks, python_module
from grpo_host.training.ranks.sharding import check_layers, is_sharding_asked, read_configuration
from grpo_sdk import ConfigError

CONFIGURATION = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_reshard_after_forward: true
  fsdp_offload_params: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
  fsdp_cpu_ram_efficient_loading: true
mixed_precision: bf16
num_processes: 8
"""

EXACT = ("model.dtype=float32", "training.learning_rate=1e-3")
"""Settings with which what is summed in another order hardly differs."""


@pytest.fixture(autouse=True)
def unchanged_environment(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in [name for name in os.environ if name.startswith(("FSDP_", "ACCELERATE_"))]:
        del os.environ[name]


@pytest.mark.parametrize(
    ("name", "what"),
    [("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM")],
)
def test_other_ways_to_share_a_model_are_refused_by_their_name(name, what):
    os.environ[name] = "true"
    with pytest.raises(
        ConfigError, match=f"{name} is set, as accelerate launch does for {what}, .*fsdp_vers"
    ):
        join_ranks()
    os.environ[name] = "false"
    assert join_ranks().size == 1


def test_the_older_fsdp_is_refused():
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="1")
    with pytest.raises(ConfigError, match=r"asks for FSDP 1, which torch has replaced. Say fsdp_version: 2"):
        is_sharding_asked()


@pytest.mark.torch
def test_a_layer_that_the_model_does_not_have_is_named_with_those_that_it_has():
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    check_layers(model)
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = "Linear, ReLU"
    check_layers(model)
    model._no_split_modules = {"Linear"}
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = "Linear,Qwen2DecoderLayer"
    with pytest.raises(ConfigError, match=r"to_wrap: Qwen2DecoderLayer, and the model has no .* \(Linear\)"):
        check_layers(model)


def test_one_process_has_nothing_to_share_a_model_with():
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    with pytest.raises(ConfigError, match="asks to shard the model, and there is one process"):
        join_ranks()


@pytest.mark.torch
def test_a_configuration_asks_for_what_accelerate_launch_would_set(tmp_path):
    path = tmp_path / "fsdp.yaml"
    path.write_text(CONFIGURATION)
    read_configuration(path)
    assert is_sharding_asked()
    assert os.environ["FSDP_RESHARD_AFTER_FORWARD"] == "true"
    sharding.prepare_sharding()
    assert os.environ["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT", "checkpoints are of any number of ranks"
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"


@pytest.mark.torch
@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "there is no file .*fsdp.yaml. Make one with accelerate config"),
        ("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\n", "fsdp.yaml asks for no FSDP"),
        (
            "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}\nnot_a_key: 1\n",
            r"fsdp.yaml cannot be used: .*not_a_key",
        ),
    ],
)
def test_a_configuration_that_shards_nothing_says_why(tmp_path, text, what):
    path = tmp_path / "fsdp.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=f"training.accelerate: .*{what}"):
        read_configuration(path)
    assert not is_sharding_asked()


@pytest.mark.torch
def test_the_configuration_in_the_docs_is_one(tmp_path):
    page = Path(__file__).parents[4] / "docs" / "training.md"
    path = tmp_path / "fsdp.yaml"
    path.write_text(
        page.read_text(encoding="utf-8").partition("```yaml\n# fsdp.yaml\n")[2].partition("```")[0]
    )
    read_configuration(path)
    assert is_sharding_asked()
    assert os.environ["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"


PARTS = """
import os
import torch, torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from grpo_host.training.finite import first_nonfinite
from grpo_sdk.weights import rounded_weights

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
whole = torch.arange(12.0).view(4, 3)
shards = distribute_tensor(whole, mesh, [Shard(0)])
assert shards.to_local().shape == (2, 3)
((_, together),) = rounded_weights([("w", shards)], torch.float32)
assert torch.equal(together, whole)
assert first_nonfinite([("w", shards)]) is None
if dist.get_rank() == 1:
    shards.to_local()[1, 1] = float("inf")
assert first_nonfinite([("w", shards)]) == "w", dist.get_rank()
"""


@pytest.mark.model
def test_ranks_agree_on_what_only_one_of_them_holds(tmp_path):
    pytest.importorskip("torch")
    script = tmp_path / "parts.py"
    script.write_text(PARTS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def train(tmp_path, agent_yaml):
    """Trains with these settings in two ranks, and gives the run's directory."""

    def run(name: str, *settings: str, resume: bool = False) -> RunDirectory:
        (tmp_path / "fsdp.yaml").write_text(CONFIGURATION)
        path = agent_yaml(2)
        command = python_module("grpo_host.cli", "run", str(path), *(["--resume"] if resume else []))
        for setting in (f"output={tmp_path / name}", *EXACT, *settings):
            command += ["--set", setting]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return RunDirectory.find(tmp_path / name, "tiny")

    return run


def weights(path: Path) -> dict[str, object]:
    from safetensors.numpy import load_file

    return load_file(path)


SHARED = "training.accelerate=fsdp.yaml"


@pytest.mark.model
@pytest.mark.slow
def test_an_adapter_is_trained_as_by_ranks_with_a_copy_each_and_goes_on_in_one_process(train):
    settings = ("training.warm_start.epochs=1", "training.beta=0.1", "training.early_stopping.every=1")
    alone = train("alone", *settings)
    half = train("shared", *settings, SHARED, "training.steps=1")
    shared = train("shared", *settings, "training.world_size=1", resume=True)
    assert shared.path == half.path
    expected = weights(alone.adapter / "adapter_model.safetensors")
    found = weights(shared.adapter / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert abs(found[name] - weight).mean() < 1e-6, name
    ours, theirs = ([line["grad_norm"] for line in run.read_metrics()] for run in (shared, alone))
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.model
@pytest.mark.slow
def test_a_whole_model_is_trained_as_by_ranks_with_a_copy_each_and_goes_on(train):
    mixed = "model.dtype=bfloat16"  # weights are float32 and multiplied in bfloat16
    settings = ("training.lora=null", "training.beta=0.1", "training.learning_rate=1e-4", mixed)
    alone = train("alone", *settings)
    sharing = (*settings, SHARED, "training.max_tokens=150")
    half = train("shared", *sharing, "training.steps=1")
    held = {path.name for path in latest_checkpoint(half.checkpoints).iterdir()}
    assert held >= {"model.safetensors", "optimizer.bin"}
    assert "pytorch_model_fsdp.bin" not in held, "weights are written once"
    shared = train("shared", *sharing, resume=True)
    assert shared.path == half.path
    expected = weights(alone.whole_model / "model.safetensors")
    found = weights(shared.whole_model / "model.safetensors")
    assert found.keys() == expected.keys(), "tied weights are written once"
    for name, weight in expected.items():
        assert abs(found[name] - weight).mean() < 1e-6, name
    report = json.loads(shared.report.read_text())
    assert report["after"]["episodes"] == 3
