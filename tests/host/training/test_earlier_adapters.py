"""An adapter that version 0.1 has written, of the tests' tiny model, in a cache that is not there any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_sdk import ModelError, ModelSpec
from grpo_sdk.adapters import check_adapter

pytestmark = pytest.mark.model
ADAPTER = Path(__file__).with_name("adapter_of_0.1")


@pytest.fixture
def moved(tiny_model_path, tmp_path):
    """The model, where a cache has been moved to."""
    path = tmp_path / "models" / "tiny-model"
    path.parent.mkdir()
    path.symlink_to(tiny_model_path)
    return path


def test_it_is_trained_on_and_served_as_it_was(moved, heavy):
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    from grpo_backends.adapters import merged_weights
    from grpo_host.config.schema import LoraConfig
    from grpo_host.training.policy import load_policy
    from grpo_host.training.weights import served_weights

    policy = load_policy(moved, dtype="bfloat16", lora=LoraConfig(r=2, alpha=4), adapter=ADAPTER, seed=0)
    saved = load_file(ADAPTER / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(policy.model)
    assert loaded.keys() == saved.keys()
    assert all(loaded[name].equal(saved[name]) for name in saved)
    served = dict(merged_weights(moved, ADAPTER, "bfloat16"))
    assert all(served[name].equal(weight) for name, weight in served_weights(policy.model, "bfloat16"))


def test_on_another_model_it_is_refused(moved):
    other = moved.rename(moved.with_name("other-model"))
    with pytest.raises(ModelError, match=r"the adapter belongs to the model .*/tiny-model, not to other"):
        check_adapter(ADAPTER, ModelSpec("other", path=other))
