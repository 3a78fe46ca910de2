"""What backends load: a run's adapter, or a whole model that was trained in float32."""

from __future__ import annotations

import pytest

from grpo_backends.adapters import merged_weights
from grpo_sdk import ModelError, ModelSpec

pytestmark = pytest.mark.model


@pytest.fixture
def policy(tiny_model_path, heavy):
    """Makes a policy of the tiny model that has learnt something small."""
    import torch

    from grpo_host.training.policy import load_policy

    def make(lora):
        policy = load_policy(tiny_model_path, dtype="bfloat16", lora=lora, adapter=None, seed=0)
        torch.manual_seed(0)
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.data += 1e-4 * torch.randn_like(parameter)
        return policy

    return make


def sampled_from(policy):
    from grpo_host.training.weights import served_weights

    return {name: tensor.clone() for name, tensor in served_weights(policy.model, "bfloat16")}


def test_an_adapter_is_served_bit_by_bit_as_it_was_sampled_from(policy, tiny_model_path, tmp_path):
    from grpo_host.config.schema import LoraConfig

    trained = policy(LoraConfig(r=4))
    trained.save(tmp_path / "adapter")
    loaded = dict(merged_weights(tiny_model_path, tmp_path / "adapter", "bfloat16"))
    expected = sampled_from(trained)
    assert loaded.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in loaded.items())


@pytest.mark.filterwarnings("ignore:.*tie:UserWarning")
def test_an_adapter_on_tied_embeddings_is_refused_by_name(tiny_model_path, tmp_path, heavy):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["embed_tokens"]))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(ModelError, match=r"/adapter: the adapter changes model\.embed_tokens.*lm_head"):
        list(merged_weights(tiny_model_path, tmp_path / "adapter", "bfloat16"))


def test_a_whole_model_is_served_bit_by_bit_as_it_was_sampled_from(policy, running, tmp_path):
    from grpo_backends.transformers_engine import TransformersBackend

    trained = policy(None)
    trained.save(tmp_path / "model")
    with running(TransformersBackend(ModelSpec("whole", path=tmp_path / "model", context=64))) as started:
        own = started.run(started.backend._thread.call(lambda engine: engine.model.state_dict()))
        assert all(tensor.equal(own[name]) for name, tensor in sampled_from(trained).items())


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_serves_a_whole_model_as_it_was_sampled_from(policy, running, tmp_path):
    from grpo_backends.vllm_engine import VllmBackend

    trained = policy(None)
    trained.save(tmp_path / "model")
    spec = ModelSpec("whole", path=tmp_path / "model", context=64)
    with running(VllmBackend(spec, kv_cache_gib=0.1, max_num_seqs=2)) as started:

        def norm(engine):
            return engine.collective_rpc(lambda worker: worker.model_runner.model.model.norm.weight.clone())

        (own,) = started.run(started.backend._thread.call(norm))
        assert own.equal(sampled_from(trained)["model.norm.weight"])
