"""Export a trained run as a directory that transformers, PEFT and vLLM load without this framework."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from grpo_host.assembly.from_yaml import model_spec
from grpo_host.config.load import load_config
from grpo_host.config.resolve import ResolvedConfig, resolve
from grpo_host.export.card import Opening, model_card, opening
from grpo_host.models.resolve import ResolvedModel, resolve_model
from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.trained_model import trained_model
from grpo_host.utils.atomic import replaced_when_done, write_text
from grpo_sdk.adapters import CONFIG, WEIGHTS, check_adapter, name_base
from grpo_sdk.errors import GrpoError, MissingExtraError, ModelError, RunError
from grpo_sdk.weights import load_model, merged_weights

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

    from grpo_host.config.schema import AgentConfig
    from grpo_host.plugins import Registry

Format = Literal["merged", "adapter"]


def export_run(
    run: RunDirectory,
    registry: Registry,
    *,
    format: Format,
    out: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write what ``run`` trained to ``out``, or below the run, and give that directory.

    ``merged`` is a whole model, ``adapter`` the PEFT adapter for its base model. Both have the
    tokenizer with its chat template, the ids that end a turn, a model card, and the run's agent.yaml.
    It is written whole or not at all. Raises ``GrpoError``.
    """
    target = out or run.path / "export" / format
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} holds something already; delete it, or name another --out")
    model = trained_model(run)
    if model.adapter is None and format == "adapter":
        raise RunError(
            f"the run {run.path} trained the whole model and has no adapter; export it with --format merged"
        )
    loaded = resolve(load_config(run.agent_yaml, registry=registry), registry)
    config = loaded.config
    base = resolve_model(config.model.name, progress=say)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced_when_done(target) as partial:
            _write(partial, run, loaded, base, model.adapter, format)
            for file in partial.iterdir():
                file.chmod(0o644)  # safetensors writes its own for nobody else to read
    except OSError as problem:
        raise RunError(
            f"cannot write {target}: {problem.strerror or problem}; make room, or name another --out"
        ) from problem
    return target


def _write(
    target: Path,
    run: RunDirectory,
    loaded: ResolvedConfig,
    base: ResolvedModel,
    adapter: Path | None,
    format: Format,
) -> None:
    try:
        from transformers import AutoTokenizer
    except ImportError as problem:
        raise MissingExtraError("exporting a run", problem.name or "transformers", "train") from problem
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path)
    except (OSError, ValueError) as problem:
        raise ModelError(f"cannot read the tokenizer of {base.path}: {problem}") from problem
    config = loaded.config
    spec = model_spec(config.model, base.path, base.hub_id)
    if adapter is not None:
        check_adapter(adapter, spec)
    try:
        shown = opening(loaded, tokenizer, spec)
    except GrpoError as problem:
        raise RunError(
            f"{run.agent_yaml}: {problem}. What the model was shown in training belongs into its card: the "
            "run's plugins are needed as they were"
        ) from problem
    generation = _generation_config(config, base, tokenizer, shown)
    if format == "merged":
        model = _model(run.whole_model if adapter is None else base.path, adapter, config.model.dtype)
        model.generation_config = generation
        model.save_pretrained(target)
    elif adapter is not None:
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(adapter / name, target / name)
        name_base(target, base.hub_id or str(base.path))
        generation.save_pretrained(target)
    tokenizer.save_pretrained(target)
    shutil.copyfile(run.agent_yaml, target / "agent.yaml")
    write_text(target / "README.md", model_card(config, base, shown, format=format, run=run))


def _model(path: Path, adapter: Path | None, dtype: str) -> PreTrainedModel:
    """The model at ``path``, an adapter merged in, rounded as the run's backend rounds it."""
    import torch

    model = load_model(path, getattr(torch, dtype))
    if adapter is None:
        return model
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, str(adapter))
    merged = dict(merged_weights(adapted))
    model = adapted.unload()
    model.load_state_dict(merged)
    return model


def _generation_config(
    config: AgentConfig, base: ResolvedModel, tokenizer: Any, shown: Opening
) -> GenerationConfig:
    """The configuration that the run was measured with: its temperature, and all ids that end a turn."""
    from transformers import GenerationConfig

    try:
        own = GenerationConfig.from_pretrained(base.path)
    except OSError:  # a model need not have one
        own = GenerationConfig()
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = list(dict.fromkeys(id for id in [*shown.stop_ids, *ends] if id is not None))
    temperature = config.evaluation.temperature
    # If sampling is asked for and top_k is not said, transformers cuts at 50.
    sampled = {"temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {}
    return GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        do_sample=bool(temperature),
        **sampled,
    )
