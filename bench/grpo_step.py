"""A GRPO step without its rollouts, against a plain TRL script: ``python -m bench.grpo_step``.

Rollouts are canned, in the shape of support_desk's: groups that share a prompt, two answers with a
customer's message between them. Every trainer gets the same rows, batch, LoRA and seed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from typing import Any

from bench.report import Report, Row, Target, publish

TARGET = 1.7


@dataclass(frozen=True)
class Rows:
    """Canned rollouts."""

    prompts: list[list[int]]
    completions: list[list[int]]
    masks: list[list[int]]

    @property
    def scored(self) -> int:
        return sum(map(sum, self.masks))

    @property
    def distinct_tokens(self) -> int:
        """What a forward pass has to see: every completion, and every prompt once."""
        return sum(map(len, {tuple(p) for p in self.prompts})) + sum(map(len, self.completions))


@dataclass(frozen=True)
class Means:
    """How a step is computed."""

    name: str
    dtype: str = "bfloat16"
    autocast: bool = False
    eager: bool = False
    lora: bool = False
    packed: bool = False

    @property
    def between(self) -> bool:
        """Some of our means, to see what each gives."""
        return self.eager and not self.packed


KINDS = [
    Means("plain TRL, float32 model under bfloat16 autocast (its defaults)", "float32", autocast=True),
    Means("plain TRL, bfloat16 model"),
    Means("bfloat16 model, eager attention", eager=True),
    Means("+ adapters' products in bfloat16", eager=True, lora=True),
    Means(
        "ours: + packed rows, shared prompts, head for scored tokens only", eager=True, lora=True, packed=True
    ),
]


def canned_rows(groups: int, size: int, answer: int, turns: int, seed: int = 0) -> Rows:
    """``groups`` prompts of 32 to 56 tokens, each with ``size`` completions."""
    generator = random.Random(seed)

    def words(low: int, high: int) -> list[int]:
        return [generator.randrange(100, 40_000) for _ in range(generator.randint(low, high))]

    rows = Rows([], [], [])
    for _ in range(groups):
        prompt = words(32, 56)
        for _ in range(size):
            completion, mask = words(answer // 2, answer), []
            mask += [1] * len(completion)
            for _ in range(turns - 1):
                customer, reply = words(16, 24), words(answer // 2, answer)
                completion += customer + reply
                mask += [0] * len(customer) + [1] * len(reply)
            rows.prompts.append(prompt)
            rows.completions.append(completion)
            rows.masks.append(mask)
    return rows


class Steps:
    """Steps of one trainer, one at a time."""

    def __init__(self, means: Means, path: str, rows: Rows, group: int, micro_batch: int) -> None:
        import torch
        from datasets import Dataset
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        from grpo_host.training.cpu.fast_pass import FastGRPOTrainer
        from grpo_host.training.lora_linear import round_once

        torch.manual_seed(0)
        on_gpu = torch.cuda.is_available()
        attention = {"attn_implementation": "eager"} if means.eager and not on_gpu else {}
        base = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, means.dtype), **attention)
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, lora)
        if means.lora:
            round_once(model)
        clock = self

        class Timed(FastGRPOTrainer if means.packed else GRPOTrainer):  # type: ignore[misc]
            def _prepare_inputs(self, batch: Any) -> Any:
                started = time.perf_counter()
                try:
                    return super()._prepare_inputs(batch)
                finally:
                    clock.preparing += time.perf_counter() - started

        count = len(rows.prompts)
        self.name = means.name
        self.seconds: list[float] = []
        self.preparing = 0.0
        self.directory = tempfile.TemporaryDirectory()
        self.trainer = Timed(
            model=model,
            args=GRPOConfig(
                output_dir=self.directory.name,
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=count // micro_batch,
                num_generations=group,
                max_steps=1,
                learning_rate=3e-4,
                max_completion_length=max(map(len, rows.completions)),
                use_cpu=not on_gpu,
                bf16=means.autocast,
                gradient_checkpointing=False,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                logging_steps=1,
            ),
            train_dataset=Dataset.from_list([{"prompt": str(i)} for i in range(count // group)]),
            processing_class=AutoTokenizer.from_pretrained(path),
            reward_funcs=lambda completions, **_: [float(i * 7 % 11) for i in range(len(completions))],
            rollout_func=lambda prompts, trainer: {
                "prompt_ids": rows.prompts,
                "completion_ids": rows.completions,
                "logprobs": [[-1.0] * len(ids) for ids in rows.completions],
                "env_mask": rows.masks,
            },
        )

    def run(self) -> dict[str, float]:
        """One step. What the trainer spends on rollouts, rewards and start-up is not counted."""
        from transformers import TrainerCallback

        took = {}

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                took["start"] = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                took["end"] = time.perf_counter()

        self.preparing = 0.0
        clock = Clock()
        self.trainer.add_callback(clock)
        with contextlib.redirect_stdout(io.StringIO()):
            self.trainer.train()
        self.trainer.remove_callback(clock)
        self.seconds.append(took["end"] - took["start"] - self.preparing)
        print(f"{self.seconds[-1]:6.2f} s  {self.name}", file=sys.stderr, flush=True)
        log = next(entry for entry in self.trainer.state.log_history if "loss" in entry)
        return {name: log[name] for name in ("loss", "grad_norm", "entropy")}


def step_gflop(config: Any, rows: Rows) -> float:
    """The matrix products that the step cannot do without: the frozen weights' and the head's.

    Forward and input gradient of every linear layer for every distinct token; the head's logits and
    expected weights for every token that carries loss. Adapters and attention are left out.
    """
    hidden, size = config.hidden_size, config.head_dim
    attention = 2 * hidden * size * (config.num_attention_heads + config.num_key_value_heads)
    layer = attention + 3 * hidden * config.intermediate_size
    body = 4 * config.num_hidden_layers * layer * rows.distinct_tokens
    return (body + 4 * hidden * config.vocab_size * rows.scored) / 1e9


def products_per_second(config: Any, tokens: int, dtype: str) -> float:
    """GFLOP/s of the model's own matrix products, forward and input gradient, back to back."""
    import torch

    inner, hidden = config.intermediate_size, config.hidden_size
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(tokens, hidden).to(device, getattr(torch, dtype))
    layers = [torch.randn(inner, hidden).to(x) for _ in range(30)]  # too many for a cache, as in a model
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        for weight in layers:
            (x @ weight.t()) @ weight
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return 4 * tokens * hidden * inner * len(layers) / min(taken) / 1e9


def _where() -> str:
    import torch

    if torch.cuda.is_available():
        return f"on {torch.cuda.get_device_name()}"
    return f"with {torch.get_num_threads()} threads"


def measure(options: argparse.Namespace) -> Report:
    """Steps of all kinds in turns."""
    from transformers import AutoConfig

    from grpo_host.models.resolve import resolve_model

    path = str(resolve_model(options.model).path)
    config = AutoConfig.from_pretrained(path)
    rows = canned_rows(options.groups, options.group_size, options.answer, options.turns)
    all_means = [means for means in KINDS if options.means or not means.between]
    kinds = [Steps(means, path, rows, options.group_size, options.micro_batch) for means in all_means]
    logs = [kind.run() for kind in kinds]  # the first step warms up, and is the one that can be compared
    rates = []
    for _ in range(options.rounds):
        for kind in kinds:
            kind.run()
        rates.append(products_per_second(config, options.micro_batch * 64, "bfloat16"))
    seconds = [statistics.median(kind.seconds[1:]) for kind in kinds]
    best = min(seconds[:2])
    table = [Row(KINDS[0].name, seconds[0], "s a step"), Row(KINDS[1].name, seconds[1], "s a step")]
    for means, took in list(zip(all_means, seconds, strict=True))[2:]:
        target = Target("≥", TARGET, "ratio") if means.packed else None
        table.append(
            Row(means.name, took, "s a step", best / took, "faster than the faster plain one", target)
        )
    work, rate = step_gflop(config, rows), max(rates)
    limit = work / rate
    table.append(Row("the machine's limit for this step", limit, "s a step", seconds[-1] / limit, "is ours"))
    norms = ", ".join(f"{log['grad_norm']:.3g}" for log in logs)
    count, mean = len(rows.prompts), statistics.mean
    return Report(
        "A GRPO step",
        f"Training time (forward, backward, optimizer) of {count} rows in micro-batches of "
        f"{options.micro_batch}, median of {options.rounds} steps in turns: prompts of "
        f"{mean(map(len, rows.prompts)):.0f} tokens in groups of {options.group_size}, completions of "
        f"{mean(map(len, rows.completions)):.0f}, of which {rows.scored / count:.0f} carry loss. "
        f"Rollouts are canned and not counted. Gradient norms of the first step: {norms}.",
        table,
        [
            f"The limit is {work:,.0f} GFLOP (each distinct token once through the frozen layers, forward "
            f"and input gradient; the head twice for each token with loss) at {rate:,.0f} GFLOP/s, which "
            f"the model's own matrix products reach in bfloat16 {_where()}.",
            "The rest of our time is norms, activations, rotary embeddings, attention and the small adapter "
            "products, which are bound by memory.",
        ],
    )


def main() -> None:
    """Parse the command line and publish."""
    parser = argparse.ArgumentParser(prog="python -m bench.grpo_step", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--answer", type=int, default=48, help="most tokens of an answer")
    parser.add_argument("--turns", type=int, default=2, help="answers in an episode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--means", action="store_true", help="measure our means one by one too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    publish(measure(options))


if __name__ == "__main__":
    main()
