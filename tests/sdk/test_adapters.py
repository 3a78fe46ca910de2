"""To which model an adapter belongs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from grpo_sdk import ModelError, ModelSpec
from grpo_sdk.adapters import adapter_settings, check_adapter, is_same_model, name_base

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"


def adapter(path: Path, base: str | None) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": base})
    )
    return path


def model(path: Path, weights: bytes = b"weights") -> Path:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_hub_id_is_the_model_wherever_its_files_lie():
    spec = ModelSpec("smollm2-135m", Path("/new/cache/smollm2-135m-0.1.2-c1"), hub_id=SMOLLM)
    assert is_same_model(SMOLLM, spec)
    assert is_same_model("smollm2-135m", spec)
    assert is_same_model("/hub/models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/abc", spec)
    assert not is_same_model("HuggingFaceTB/SmolLM2-135M", spec)
    assert not is_same_model("somebody/SmolLM2-135M-Instruct", spec)


def test_a_cache_that_was_moved_is_the_same_model():
    spec = ModelSpec("smollm2-135m", Path("/new/cache/smollm2-135m-0.1.2-c1"), hub_id=SMOLLM)
    assert is_same_model("/old/cache/smollm2-135m-0.1.2-c1", spec)
    assert is_same_model("/old/downloads/SmolLM2-135M-Instruct", spec)
    assert not is_same_model("/old/cache/smollm2-360m-0.1.2-c1", spec)


def test_directories_are_the_same_model_where_they_hold_the_same_weights(tmp_path):
    mine, copy, other = (
        model(tmp_path / "mine"),
        model(tmp_path / "copy"),
        model(tmp_path / "runs" / "mine", b"wEights"),
    )
    spec = ModelSpec(str(mine), mine)
    assert is_same_model(str(mine / ".." / "mine"), spec)
    assert is_same_model(str(copy), spec)
    assert not is_same_model(str(other), spec), "it is only called the same"


def test_an_adapter_of_another_model_is_refused_by_name(tmp_path):
    path = adapter(tmp_path / "lora", "org/large")
    with pytest.raises(ModelError) as caught:
        check_adapter(path, ModelSpec("org/small"))
    assert str(caught.value) == (
        f"{path}: the adapter belongs to the model org/large, not to org/small. Use the model that it was "
        "trained on; if the two are the same, name org/small as base_model_name_or_path in its "
        "adapter_config.json"
    )
    name_base(path, "org/small")
    check_adapter(path, ModelSpec("org/small"))


def test_an_adapter_that_does_not_say_is_not_refused_by_name(tmp_path):
    check_adapter(adapter(tmp_path / "lora", None), ModelSpec("org/small"))


@pytest.mark.parametrize(
    ("text", "said"), [(None, r"no adapter_config\.json in it"), ("{", "cannot be read")]
)
def test_a_directory_that_is_no_adapter_is_refused(tmp_path, text, said):
    if text is not None:
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=said):
        adapter_settings(tmp_path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Makes models of the same widths with so many layers, and adapters of them, without a tokenizer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        peft = pytest.importorskip("peft")

    def make(layers: int, width: int = 16, **lora) -> tuple[ModelSpec, Path]:
        path = tmp_path_factory.mktemp("model")
        torch.manual_seed(layers)
        config = transformers.LlamaConfig(
            vocab_size=32,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
        )
        transformers.LlamaForCausalLM(config).save_pretrained(path)
        base = transformers.AutoModelForCausalLM.from_pretrained(path)
        settings = peft.LoraConfig(r=2, **{"target_modules": ["q_proj", "v_proj"], **lora})
        peft.get_peft_model(base, settings).save_pretrained(path / "lora", save_embedding_layers=False)
        name_base(path / "lora", "")  # so that only its weights can tell
        return ModelSpec("tiny", path), path / "lora"

    return make


@pytest.mark.model
def test_an_adapter_fits_the_model_that_it_was_trained_on(models):
    for lora in (
        {},
        {"target_modules": "all-linear"},
        {"layers_to_transform": [1]},
        {"target_modules": ["embed_tokens"]},
    ):
        spec, path = models(2, **lora)
        check_adapter(path, spec)


@pytest.mark.model
def test_an_adapter_of_fewer_layers_is_refused_though_all_widths_are_the_same(models):
    (two, lora_of_two), (four, lora_of_four) = models(2), models(4)
    with pytest.raises(
        ModelError, match=r"does not fit the model tiny in .*: it has no .*layers\.2\..*lora_A"
    ):
        check_adapter(lora_of_two, four)
    with pytest.raises(
        ModelError, match=r"the model has no place for .*layers\.2\..*more like it\)\. Use the"
    ):
        check_adapter(lora_of_four, two)


@pytest.mark.model
def test_an_adapter_of_other_widths_is_refused_before_any_weights_are_loaded(models):
    (narrow, lora), (wide, _) = models(2), models(2, width=32)
    with pytest.raises(ModelError, match=r"lora_A\.weight is \(2, 16\), and the model takes \(2, 32\)"):
        check_adapter(lora, wide)
    assert narrow.path != wide.path


@pytest.mark.model
def test_an_adapter_without_safetensors_is_refused(models):
    spec, lora = models(2)
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors in it"):
        check_adapter(lora, spec)


@pytest.mark.model
def test_an_adapter_for_places_that_the_model_has_not_is_refused(models):
    spec, lora = models(2)
    settings = adapter_settings(lora)
    (lora / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": ["nowhere"]}))
    with pytest.raises(ModelError, match=r"does not fit the model tiny .*: Target modules"):
        check_adapter(lora, spec)
