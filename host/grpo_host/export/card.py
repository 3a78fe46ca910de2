"""Write the model card of an export: how to use the model, what it was told in training, how it was made."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpo_host.agents.agent import with_instructions
from grpo_host.agents.rendering import find_renderer
from grpo_host.assembly.from_yaml import build_environment, build_strategy
from grpo_host.assembly.tools import build_tools
from grpo_sdk.blocking import settled
from grpo_sdk.errors import GrpoError, RunError
from grpo_sdk.messages import user
from grpo_sdk.toolbox import Toolbox

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig
    from grpo_host.config.schema import AgentConfig
    from grpo_host.models.resolve import ResolvedModel
    from grpo_host.runs.directory import RunDirectory
    from grpo_sdk.backend import ModelSpec
    from grpo_sdk.environment import Environment
    from grpo_sdk.messages import Message
    from grpo_sdk.tools import ToolLike

_USER = "(what the user says)"
_MEASURED = {"before": "before training", "warm_start": "after the warm start", "after": "after GRPO"}
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts as the highest rank of its adapters."""


@dataclass(frozen=True, slots=True)
class Opening:
    """System message and tools with which every conversation began in training."""

    system_prompt: str
    tools: list[str]
    """Names of the tools."""
    text: str
    """All that the model read before its first answer, with a placeholder for the user's message."""
    stop_ids: tuple[int, ...]
    """Ids that end an assistant message."""


def opening(resolved: ResolvedConfig, tokenizer: Any, model: ModelSpec) -> Opening:
    """The opening of the agent, as ``model`` read it in training.

    Raises ``GrpoError`` if its plugins are not there, or the environment fails.
    """
    config, strategy = resolved.config, build_strategy(resolved)
    make_environment = build_environment(resolved)
    try:
        limit = config.agent.limits.episode_seconds
        history, tools = asyncio.run(asyncio.wait_for(_begin(make_environment()), limit))
    except GrpoError:
        raise
    except Exception as problem:  # plugin code
        raise RunError(
            f'the environment "{config.environment_label}" cannot begin an episode, which tells what the '
            f"model is shown: {type(problem).__name__}: {problem}"
        ) from problem
    toolbox = Toolbox([*build_tools(resolved, strategy), *tools])
    messages = with_instructions(strategy.instructions, history)
    renderer = find_renderer(tokenizer, model)
    ids = renderer.prompt([*messages, user(_USER)], toolbox.schemas)
    prompt = messages[0]["content"] if messages else ""
    return Opening(prompt, toolbox.names, tokenizer.decode(ids), renderer.stop_ids)


async def _begin(environment: Environment) -> tuple[list[Message], list[ToolLike]]:
    """The system message, if any, and the tools of an episode."""
    try:
        observation = await environment.reset(environment.tasks("train")[0], seed=0)
        first = observation.messages[:1]
        return [m for m in first if m["role"] == "system"], list(await settled(environment.tools()))
    finally:
        await environment.close()


def model_card(
    config: AgentConfig, base: ResolvedModel, shown: Opening, *, format: str, run: RunDirectory
) -> str:
    """The text of README.md: metadata for the hub, then text for people."""
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(
        base_model=base.hub_id,  # the hub takes no path for one
        library_name="peft" if format == "adapter" else "transformers",
        license=base.license,
        pipeline_tag="text-generation",
        tags=["grpo", "trl", "grpo-agent-framework", *(["lora"] if format == "adapter" else [])],
    )
    made = run.agent_yaml.read_text(encoding="utf-8")
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {config.name}",
        f"`{base.hub_id or base.name}`, trained with GRPO (TRL, by grpo-agent-framework) as an agent in the "
        f"environment `{config.environment_label}`.",
        "## Use",
        *_use(config, base, format),
        "## What it is told",
        *_told(shown),
        "## How it was made",
        *_made(config, run.read_report(), made),
        "The run's whole agent.yaml:",
        _fenced("yaml", made),
    ]
    return "\n\n".join(parts) + "\n"


def _use(config: AgentConfig, base: ResolvedModel, format: str) -> Iterator[str]:
    name = base.hub_id or str(base.path)
    temperature = f"{config.evaluation.temperature:g}"
    greedy = f"""--override-generation-config '{{"temperature": {temperature}}}'"""
    if format == "merged":
        load = 'model = AutoModelForCausalLM.from_pretrained("DIR")'
        serve = f"vllm serve DIR --served-model-name {config.name} {greedy}"
        imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    else:
        load = (
            f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{name}"), "DIR")\n'
            'model.generation_config = GenerationConfig.from_pretrained("DIR")'
        )
        trained = config.training.lora.r if config.training.lora else 0
        rank = next((most for most in _VLLM_RANKS if most >= trained), trained)
        serve = (
            f"vllm serve {name} --enable-lora --max-lora-rank {rank} --lora-modules {config.name}=DIR "
            f"--chat-template DIR/chat_template.jinja {greedy}"
        )
        imports = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        ]
    yield _fenced(
        "python", "\n".join([*imports, "", load, 'tokenizer = AutoTokenizer.from_pretrained("DIR")'])
    )
    yield _fenced("bash", serve)
    yield (
        f"DIR is this directory, or its name on the hub. It was measured at temperature {temperature}; a "
        f"conversation had {config.model.context} tokens and an answer at most {config.sampling.max_tokens}."
    )


def _told(shown: Opening) -> Iterator[str]:
    if shown.system_prompt:
        yield "The system prompt:"
        yield _fenced("text", shown.system_prompt)
    if shown.tools:
        names = ", ".join(f"`{name}`" for name in shown.tools)
        yield (
            f"Its tools: {names}. They are not part of this directory: who serves the model offers them, "
            "described as it was trained to read them, and runs what it calls."
        )
    yield "So a conversation began, token for token:"
    yield _fenced("text", shown.text)


def _made(config: AgentConfig, report: Mapping[str, Any], agent_yaml: str) -> Iterator[str]:
    training, warm = config.training, config.training.warm_start
    lora = training.lora
    versions = re.search(r"^# Made with (.+)$", agent_yaml, re.MULTILINE)
    demonstrations = report.get("warm_start_demonstrations")
    rows = {
        "rewards": ", ".join(f"{use.weight:g} * {use.label}" for use in config.rewards),
        "warm start": f"{demonstrations} demonstrations, {warm.epochs} epochs" if warm else "none",
        "GRPO": f"{report.get('steps', training.steps)} steps of {training.tasks_per_step} tasks with "
        f"{training.group_size} episodes each, sampled at temperature {config.sampling.temperature:g}",
        "learning rate": f"{training.learning_rate:g}, {training.lr_schedule}",
        "trained": f"LoRA, rank {lora.r}, alpha {lora.alpha}" if lora else "all weights",
        "seed": str(config.seed),
        "versions": versions[1] if versions else "unknown",
    }
    yield _table(("", ""), rows.items())
    measured = [
        (
            label,
            _interval(found["reward"], ".3f"),
            _interval(found["success"], ".0%"),
            f"{found['episodes']} {found['split']}",
        )
        for name, label in _MEASURED.items()
        if (found := report.get(name))
    ]
    if measured:
        yield _table(("", "mean reward", "success", "episodes"), measured)


def _interval(value: Mapping[str, float] | None, form: str) -> str:
    if value is None:
        return "not said"
    return f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _fenced(language: str, text: str) -> str:
    """A code block; its fence is longer than any in ``text``."""
    longest = max((len(found) for found in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
