"""order_desk through TRL 1.16's ``environment_factory``, with tool calls by decree (see bench.rollouts)."""

from __future__ import annotations

import os
import re
import tempfile
import time
from contextlib import suppress
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
import trl.trainer.grpo_trainer as trl_module
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from bench.rollouts_ours import opening, tasks
from bench.rollouts_workload import CONTEXT, DTYPE, EPISODES, GROUP, LOOKUPS, MAX_TOKENS, MODEL, Measured
from grpo_environments.order_desk.dialogue import OrderDialogue
from grpo_host.models.resolve import resolve_model

TEMPLATE = """{%- for m in messages -%}
<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}
{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>{% else %}{{ m.content }}{% endif -%}
{%- for call in m.tool_calls or [] -%}
<tool_call>{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}</tool_call>
{%- endfor -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""The model's own template and our renderer's form of tool calls, in one that TRL accepts."""

_ORDER = re.compile(r"\b[A-Z]+\d{2,}\b")


class OrderEnvironment:
    """order_desk as TRL wants environments: its public methods are the tools."""

    def reset(self, data: dict[str, Any], **columns: Any) -> None:
        """Begin the task of ``data``."""
        self._dialogue = OrderDialogue.of(data)

    def lookup_order(self, order_id: str) -> str:
        """Look up an order: its item, status, eta (day of arrival) and carrier.

        Args:
            order_id: The order number, such as K482.
        """
        return self._dialogue.lookup(order_id)

    def get_reward(self) -> float:
        """A reward, since TRL needs one; it is not computed here."""
        return 0.0


class _GeneratedError(Exception):
    """Generation is over: what would follow is training."""


def measure() -> Measured:
    """Time ``GRPOTrainer._generate``: all turns of all episodes, and nothing else of the step."""
    model = resolve_model(MODEL).path
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = {}  # something: the parser behind it is ours
    calls = {"turns": 0, "tokens": 0}

    def by_decree(tokenizer: Any, ids: list[int], prefix: list[int], tools: Any = None) -> dict[str, Any]:
        """TRL's ``parse_response``: always a call; ``max_tool_calling_iterations`` ends the episode."""
        calls["turns"] += 1
        calls["tokens"] += len(ids)
        before = tokenizer.decode(prefix)
        found = _ORDER.search(before, before.index("<|im_start|>user"))
        function = {"name": "lookup_order", "arguments": {"order_id": found[0] if found else ""}}
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": function}],
        }

    trl_module.parse_response = by_decree
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            str(model),
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=not torch.cuda.is_available(),
                bf16=False,
                model_init_kwargs={"dtype": DTYPE},
                per_device_train_batch_size=EPISODES,
                num_generations=GROUP,
                max_completion_length=CONTEXT,
                max_tool_calling_iterations=LOOKUPS,
                temperature=1.0,
                max_steps=1,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": opening(task), "data": task.data} for task in tasks()]
            ),
            processing_class=tokenizer,
            environment_factory=OrderEnvironment,
        )
        generate = trainer._generate
        taken = 0.0

        def timed(prompts: list[Any]) -> None:
            nonlocal taken
            # TRL limits the tokens of all turns together; each turn by itself has this limit here.
            trainer.generation_config.max_new_tokens = 2
            generate(prompts)
            calls.update(turns=0, tokens=0)
            trainer.generation_config.max_new_tokens = MAX_TOKENS
            started = time.perf_counter()
            generate(prompts)
            taken = time.perf_counter() - started
            raise _GeneratedError

        trainer._generate = timed
        with suppress(_GeneratedError):
            trainer.train()
    return Measured(taken, calls["turns"], calls["tokens"])
