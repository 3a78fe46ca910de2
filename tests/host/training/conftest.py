"""A tiny policy for tests of training: a random Llama with an adapter, and a tokenizer of letters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

VOCABULARY = 64


@pytest.fixture(scope="session")
def tiny(heavy) -> SimpleNamespace:
    """Makers of small models and tokenizers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    def model(*, dtype: Any = torch.float32, seed: int = 0, **options: Any) -> Any:
        torch.manual_seed(seed)
        config = LlamaConfig(
            **{
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "initializer_range": 0.2,
                "eos_token_id": 1,
                "bos_token_id": None,
                "pad_token_id": 1,
                **options,
            }
        )
        return LlamaForCausalLM(config).to(dtype)

    def adapted(*, changed: bool = True, targets: Any = "all-linear", **options: Any) -> Any:
        """A model with an adapter that, where ``changed``, changes something."""
        base = model(**options)
        settings = LoraConfig(r=4, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM")
        policy = get_peft_model(base, settings, autocast_adapter_dtype=False)
        torch.manual_seed(1)
        for name, parameter in policy.named_parameters():
            if changed and "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return policy

    def tokenizer() -> Any:
        vocabulary = {"<|im_start|>": 0, "<|im_end|>": 1}
        vocabulary.update({chr(0x30 + index): index + 2 for index in range(VOCABULARY - 2)})
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
        return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|im_end|>")

    return SimpleNamespace(model=model, adapted=adapted, tokenizer=tokenizer, vocabulary=VOCABULARY)
