"""The backend ``vllm_server`` with one real ``vllm serve``, started by it, on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grpo_backends.vllm_server import VllmServerBackend
from grpo_sdk import Backend, ModelSpec, Sampling
from grpo_sdk.testing import BackendContract

pytestmark = [pytest.mark.model, pytest.mark.vllm, pytest.mark.slow]


class TestVllmServe(BackendContract):
    """All of the contract, and what training adds to it, with a single start of half a minute."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _model(cls, tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        pytest.importorskip("vllm")
        cls.path = tiny_model_path
        cls.adapter_path = tmp_path_factory.mktemp("lora") / "adapter"
        adapted = _adapted(tiny_model_path)
        adapted.save_pretrained(cls.adapter_path)

    def make(self) -> Backend:
        spec = ModelSpec("tiny", path=self.path, dtype="float32", context=256)
        return VllmServerBackend(spec, kv_cache_gib=0.1)

    def adapter(self) -> Path:
        return self.adapter_path

    def test_logprobs_of_an_adapter_are_those_of_a_plain_forward(self) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        self.run(self.backend.update_adapter(self.adapter_path, version=7))
        ids, sampling = self.prompt(), Sampling(max_tokens=32, temperature=0.7, seed=3)
        reply = self.run(self.backend.generate(ids, sampling))
        base = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, self.adapter_path)
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *reply.ids]])).logits[0, len(ids) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1).gather(1, torch.tensor(reply.ids)[:, None])[:, 0]
        assert reply.logprobs == pytest.approx(expected.tolist(), abs=1e-3)
        assert reply.policy_version == 7


def _adapted(path: Path) -> Any:
    """The model at ``path`` with a random adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    )
