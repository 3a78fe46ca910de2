"""How much of a small LoRA update is visible in bfloat16: ``python -m bench.visible_update``.

The reference is float32. Its policy samples answers and takes three steps of Adam on them; then the
change that it sees in their log-probs is compared with the change that is seen with bfloat16 weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Report, Row, Target, publish

RATES = (3e-4, 1e-4, 1e-5)
PROMPTS = (
    "My router keeps losing its connection. What can I do?",
    "Write two sentences about the sea.",
    "Where is my order? It should have come on Monday.",
    "What is 17 + 25? Explain each step.",
    "Give me three tips for a job interview.",
    "How do I cook rice?",
    "I was charged twice for one subscription and I am angry.",
    "Tell me a short story about a fox.",
)


@dataclass(frozen=True)
class Tokens:
    """Given tokens: prompts padded on the left, answers on the right."""

    ids: Any
    attention: Any
    scored: Any

    @property
    def width(self) -> int:
        return int(self.scored.size(1))


def sample_tokens(policy: Any, rows: int, answer: int) -> Tokens:
    """``rows`` sampled answers to ``PROMPTS``."""
    import torch

    tokenizer = policy.tokenizer
    tokenizer.padding_side = "left"
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPTS[row % len(PROMPTS)]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for row in range(rows)
    ]
    given = tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.no_grad():
        ids = policy.model.generate(
            **given, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=answer, min_new_tokens=answer
        )
    width = ids.size(1) - given["input_ids"].size(1)
    scored = torch.ones(rows, width, dtype=torch.bool)
    attention = torch.cat([given["attention_mask"], scored.long()], dim=1)
    return Tokens(ids, attention, scored)


def logprobs(base: Any, tokens: Tokens) -> Any:
    """Of the scored tokens, by the trainer's fast pass in the model's own precision."""
    from grpo_host.training.cpu.fast_pass import score_tokens

    found, _ = score_tokens(base, tokens.ids, tokens.attention, tokens.scored, tokens.width, 1.0)
    return found[tokens.scored]


def plain_logprobs(model: Any, tokens: Tokens) -> Any:
    """Of the scored tokens, by one forward pass of the whole model, as on a GPU."""
    import torch

    found = []
    for row, attention in zip(tokens.ids.split(4), tokens.attention.split(4), strict=True):
        positions = (attention.cumsum(-1) - 1).clamp(min=0)
        given = {"attention_mask": attention, "position_ids": positions, "use_cache": False}
        logits = model(input_ids=row, logits_to_keep=tokens.width + 1, **given).logits[:, :-1]
        chosen = row[:, -tokens.width :, None]
        found.append(logits.float().log_softmax(-1).gather(2, chosen)[..., 0])
    return torch.cat(found)[tokens.scored]


def learn(policy: Any, tokens: Tokens, rate: float, steps: int = 3) -> None:
    """Steps of Adam that make some of the answers likelier and others less so."""
    import torch

    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=rate)
    advantages = torch.randn(len(tokens.ids), 1, generator=torch.Generator().manual_seed(0))
    weights = advantages.expand_as(tokens.scored)[tokens.scored] / tokens.scored.sum()
    for _ in range(steps):
        optimizer.zero_grad()
        (-logprobs(policy.model.get_base_model(), tokens) * weights).sum().backward()
        optimizer.step()


def measure(options: argparse.Namespace) -> Report:
    """What is visible of updates of three sizes, by every way that weights take."""
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    from grpo_backends.adapters import merged_weights as loaded_by_backends
    from grpo_host.config.schema import LoraConfig
    from grpo_host.models.resolve import resolve_model
    from grpo_host.training.policy import load_policy
    from grpo_host.training.weights import served_weights
    from grpo_sdk.weights import VisibleUpdate

    path = resolve_model(options.model).path
    settings = {"lora": LoraConfig(r=16, alpha=32), "adapter": None, "seed": 0}
    exact = load_policy(path, dtype="float32", **settings)
    ours = load_policy(path, dtype="bfloat16", **settings)
    stock = load_policy(path, dtype="bfloat16", **settings)
    for module in stock.model.modules():
        vars(module).pop("forward", None)  # PEFT's own
    frozen = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    own = frozen.state_dict()

    def with_weights(weights: Any) -> Any:
        for name, tensor in weights:
            own[name].copy_(tensor)
        return logprobs(frozen, tokens)

    policies = (exact, ours, stock)
    tokens = sample_tokens(exact, options.rows, options.answer)
    start = {name: value.clone() for name, value in get_peft_model_state_dict(exact.model).items()}
    learn(exact, tokens, RATES[0])
    end = {name: value.clone() for name, value in get_peft_model_state_dict(exact.model).items()}
    passes = [lambda policy=policy: logprobs(policy.model.get_base_model(), tokens) for policy in policies]
    passes.append(lambda: plain_logprobs(ours.model, tokens))
    rows, seconds = [], {}
    with torch.no_grad():
        for policy in policies:
            set_peft_model_state_dict(policy.model, start)
        before = [run() for run in passes]
        unchanged = with_weights(served_weights(ours.model, "bfloat16"))
        for rate in RATES:
            adapter = {name: start[name] + (end[name] - start[name]) * (rate / RATES[0]) for name in start}
            for policy in policies:
                set_peft_model_state_dict(policy.model, adapter)
            wanted, fast, plain, whole = (run() - was for run, was in zip(passes, before, strict=True))
            counted = VisibleUpdate()
            ways = {
                "merged, rounded to the nearest": lambda: nearest(ours.model),
                "merged for the engine": lambda: served_weights(ours.model, "bfloat16", counted),  # noqa: B023
            }
            seen = {}
            for name, way in ways.items():
                weights, seconds[name] = timed(way)
                seen[name] = with_weights(weights) - unchanged
            with tempfile.TemporaryDirectory() as folder:
                ours.save(Path(folder) / "adapter")
                served = loaded_by_backends(path, Path(folder) / "adapter", "bfloat16")
                seen["the adapter as backends load it"] = with_weights(served) - unchanged
            seen |= {"stock PEFT's pass": plain, "the trainer's pass": fast, WHOLE: whole}
            for name, change in seen.items():
                share = float((change * wanted).sum() / wanted.square().sum())
                reached = Target("≥", 95) if rate == 1e-4 and name in OURS else None
                rows.append(Row(f"{rate:g}: {name}", 100 * share, "%", target=reached))
            rows.append(Row(f"{rate:g}: weights/visible_update", 100 * (counted.share or 0), "%"))
    merge = seconds["merged for the engine"]
    return Report(
        "Small updates in bfloat16",
        f"Of the change in the log-probs of {int(tokens.scored.sum())} sampled tokens that an update of "
        "three Adam steps makes in float32 (LoRA r=16, alpha=32), the share that is seen otherwise: the "
        "projection of the one change onto the other. Merged weights are in bfloat16 and computed with in "
        "float32, so that only their rounding counts; passes are in bfloat16.",
        rows,
        [
            f"Merging took {merge:.2f} s, rounded to the nearest {seconds['merged, rounded to the nearest']:.2f} s.",
            "A pass in bfloat16 has noise of its own, which is larger than an update at 1e-5.",
        ],
    )


WHOLE = "TRL's own pass, with the trainer's layers (as on a GPU)"
OURS = ("merged for the engine", "the adapter as backends load it", "the trainer's pass", WHOLE)


def nearest(model: Any) -> Any:
    """The merge as it is commonly made."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    layers = {name: layer for name, layer in base.named_modules() if isinstance(layer, BaseTunerLayer)}
    for name, layer in layers.items():
        weight = layer.get_base_layer().weight
        delta = layer.get_delta_weight(layer.active_adapters[0])
        yield f"{name}.weight", (weight.float() + delta.float()).to(torch.bfloat16)


def timed(way: Callable[[], Any]) -> tuple[list[tuple[str, Any]], float]:
    """What ``way`` gives, and the seconds that it took."""
    started = time.perf_counter()
    found = list(way())
    return found, time.perf_counter() - started


def main() -> None:
    """Parse the command line and publish."""
    parser = argparse.ArgumentParser(prog="python -m bench.visible_update", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--answer", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    publish(measure(options))


if __name__ == "__main__":
    main()
