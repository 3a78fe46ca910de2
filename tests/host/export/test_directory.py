"""What an export holds, and that libraries which do not know this framework read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from grpo_host.export import directory
from grpo_host.export.directory import export_run
from grpo_host.models.embedded import SMOLLM2
from grpo_host.models.resolve import ResolvedModel
from grpo_sdk.errors import RunError

pytestmark = pytest.mark.model


def generated(model, prompts):
    """What plain transformers says, as the model's own generation_config has it."""
    import torch

    answers = []
    for ids in prompts.ids:
        said = model.generate(torch.tensor([ids]), max_new_tokens=12)
        answers.append(said[0, len(ids) :].tolist())
    return answers


def test_a_merged_export_says_in_plain_transformers_what_we_say(
    make_run, registry, greedy, prompts, tiny_model_path
):
    from transformers import AutoModelForCausalLM

    run = make_run()
    path = export_run(run, registry, format="merged")

    expected = greedy(tiny_model_path, run.adapter)
    assert generated(AutoModelForCausalLM.from_pretrained(path), prompts) == expected
    assert expected != greedy(tiny_model_path, None), "the run has taught nothing that could be seen"


def test_an_adapter_export_says_in_plain_peft_what_we_say(
    make_run, registry, greedy, prompts, tiny_model_path
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    run = make_run()
    path = export_run(run, registry, format="adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype="float32")
    model = PeftModel.from_pretrained(base, path)
    model.generation_config = GenerationConfig.from_pretrained(path)

    assert generated(model, prompts) == greedy(tiny_model_path, run.adapter)


def test_a_model_that_was_trained_whole_is_exported_as_it_was_served(make_run, registry, greedy, prompts):
    from transformers import AutoModelForCausalLM

    run = make_run(lora="null")
    path = export_run(run, registry, format="merged")

    assert generated(AutoModelForCausalLM.from_pretrained(path), prompts) == greedy(run.whole_model, None)


@pytest.mark.parametrize("format", ["merged", "adapter"])
def test_an_export_has_the_chat_template_and_the_ends_of_a_turn(make_run, registry, tiny_model_path, format):
    from transformers import AutoTokenizer, GenerationConfig

    path = export_run(make_run(), registry, format=format)
    ours, theirs = (AutoTokenizer.from_pretrained(where) for where in (tiny_model_path, path))
    chat = [{"role": "user", "content": "Hello  there !"}]

    assert theirs.apply_chat_template(chat, tokenize=False) == ours.apply_chat_template(chat, tokenize=False)
    assert theirs.encode("Hello  there !") == ours.encode("Hello  there !")
    generation = GenerationConfig.from_pretrained(path)
    assert generation.eos_token_id == ours.eos_token_id
    assert generation.pad_token_id == ours.pad_token_id
    assert generation.do_sample is False


def test_ends_that_the_base_models_configuration_names_are_kept(
    make_run, registry, tiny_model_path, tmp_path
):
    from transformers import GenerationConfig

    several = tmp_path / "several-ends"
    shutil.copytree(tiny_model_path, several)
    GenerationConfig(eos_token_id=[0, 2], pad_token_id=2, repetition_penalty=1.3).save_pretrained(several)
    path = export_run(make_run(model=several), registry, format="merged")

    generation = GenerationConfig.from_pretrained(path)
    assert generation.eos_token_id == [2, 0], "the end of a turn first"
    assert generation.repetition_penalty is None, "it was measured without"


def test_a_run_that_was_measured_by_sampling_is_sampled(make_run, registry):
    from transformers import GenerationConfig

    generation = GenerationConfig.from_pretrained(
        export_run(make_run(temperature=0.7), registry, format="adapter")
    )
    assert (generation.do_sample, generation.temperature) == (True, 0.7)
    assert (generation.top_p, generation.top_k) == (1.0, 0)


def test_a_merged_export_is_in_the_models_precision_and_ties_what_the_model_ties(
    make_run, registry, tiny_model_path
):
    from safetensors import safe_open

    path = export_run(make_run(dtype="bfloat16"), registry, format="merged")
    with (
        safe_open(path / "model.safetensors", "pt") as ours,
        safe_open(tiny_model_path / "model.safetensors", "pt") as base,
    ):
        assert set(ours.keys()) == set(base.keys())
        assert {ours.get_tensor(name).dtype for name in ours.keys()} == {  # noqa: SIM118
            base.get_tensor(name).dtype
            for name in base.keys()  # noqa: SIM118
        }


def test_an_adapter_of_a_directory_names_the_directory(make_run, registry, tiny_model_path):
    path = export_run(make_run(), registry, format="adapter")
    assert json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tiny_model_path.resolve()
    )


def test_an_adapter_of_the_embedded_model_names_it_as_the_hub_does(
    make_run, registry, monkeypatch, tiny_model_path
):
    hub_id = SMOLLM2.hub_id  # the tiny model stands for it, which takes longer to load
    embedded = ResolvedModel("smollm2-135m", tiny_model_path, "embedded", hub_id)
    monkeypatch.setattr(directory, "resolve_model", lambda *_, **__: embedded)
    path = export_run(make_run(), registry, format="adapter")
    settings = json.loads((path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in (path / "README.md").read_text()


def test_every_file_of_an_export_can_be_read_by_others(make_run, registry):
    path = export_run(make_run(), registry, format="merged")
    assert {oct(file.stat().st_mode & 0o777) for file in path.iterdir()} == {"0o644"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "agent.yaml"} <= {
        file.name for file in path.iterdir()
    }


def test_what_is_there_is_not_overwritten(make_run, registry, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(RunError, match="holds something already; delete it, or name another --out"):
        export_run(make_run(), registry, format="merged", out=tmp_path / "mine")


def test_an_export_that_fails_leaves_nothing(make_run, registry, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "model_card", full)
    with pytest.raises(RunError, match=r"cannot write .*/out: No space left on device; make room"):
        export_run(make_run(), registry, format="adapter", out=tmp_path / "there" / "out")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_run_whose_plugins_are_gone_says_what_they_are_needed_for(make_run, registry):
    run = make_run()
    text = run.agent_yaml.read_text()
    run.agent_yaml.write_text(text.replace("name: arithmetic", "name: arithmetics"))
    with pytest.raises(RunError, match=r'agent\.yaml: no environment "arithmetics".* plugins are needed as'):
        export_run(run, registry, format="adapter")


def test_a_whole_model_has_no_adapter_to_export(make_run, registry):
    with pytest.raises(RunError, match="trained the whole model and has no adapter; export it with --format"):
        export_run(make_run(lora="null"), registry, format="adapter")


def test_a_run_that_has_not_ended_cannot_be_exported(make_run, registry):
    run = make_run()
    shutil.rmtree(run.adapter)
    with pytest.raises(RunError, match="has no adapter yet; finish it with --resume"):
        export_run(run, registry, format="merged")


PLAIN_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
llm = LLM(sys.argv[1], dtype="float32", max_model_len=256, enforce_eager=True, kv_cache_memory_bytes=2**26)
greedy = SamplingParams(temperature=0, max_tokens=12)
asked = [{"prompt_token_ids": ids} for ids in json.loads(sys.argv[2])]
said = llm.generate(asked, greedy, use_tqdm=False)
print("said", json.dumps([list(answer.outputs[0].token_ids) for answer in said]))
"""


QUICK_VLLM = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in one process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCHDYNAMO_DISABLE": "1",  # compiling small helpers takes half a minute
}


@pytest.mark.vllm
def test_plain_vllm_loads_a_merged_export_and_says_what_we_say(
    make_run, registry, greedy, prompts, tiny_model_path
):
    pytest.importorskip("vllm")
    run = make_run()
    path = export_run(run, registry, format="merged")
    done = subprocess.run(  # a process of its own: vLLM changes torch for all that comes after it
        [sys.executable, "-c", PLAIN_VLLM, str(path), json.dumps(prompts.ids)],
        env={**os.environ, **QUICK_VLLM},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = next(line for line in done.stdout.splitlines() if line.startswith("said "))
    assert json.loads(said.removeprefix("said ")) == greedy(tiny_model_path, run.adapter)
