"""Runs that have ended, on a tiny random model."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.host.adapted import adapted

from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins
from grpo_host.runs.directory import RunDirectory
from grpo_host.runs.versions import describe_run

AGENT = """\
name: desk
seed: 7
model: {{name: "{model}", dtype: {dtype}, context: 256}}
backend: transformers
agent: {{system_prompt: Use the tools., tools: [calculator]}}
environment: arithmetic
rewards: [{{name: task_success, weight: 0.75}}, {{name: length, weight: 0.25}}]
training: {{steps: 3, learning_rate: 1.0e-4, lora: {lora}}}
evaluation: {{temperature: {temperature}}}
"""

MEASURED = {
    "split": "held_out",
    "episodes": 32,
    "reward": {"mean": 0.25, "low": 0.2, "high": 0.3},
    "success": {"mean": 0.0, "low": 0.0, "high": 0.1},
}
LORA = "{r: 4, alpha: 16}"


@pytest.fixture(scope="session")
def registry():
    return load_plugins()


@pytest.fixture(scope="session")
def libraries(model_path) -> None:
    """Import what a model stands on, once: these imports themselves import what is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in ("torch", "transformers", "peft"):
            pytest.importorskip(module)


@pytest.fixture(scope="session")
def trained(libraries, tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What runs have trained: an adapter, and a whole model. Both differ much from the tiny model."""
    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("trained")
    policy = adapted(tiny_model_path)
    policy.save_pretrained(path / "adapter")
    policy.merge_and_unload().save_pretrained(path / "model")
    AutoTokenizer.from_pretrained(tiny_model_path).save_pretrained(path / "model")
    return path


@pytest.fixture
def make_run(tmp_path: Path, tiny_model_path: Path, registry, trained):
    """Makes a run that has trained an adapter, or the whole model where ``lora`` is null."""

    def make(
        *, lora: str = LORA, dtype: str = "float32", temperature: float = 0.0, model: str | Path = ""
    ) -> RunDirectory:
        run = RunDirectory(tmp_path / "runs" / "desk" / "20260101-000000-aaaa")
        run.path.mkdir(parents=True)
        text = AGENT.format(model=model or tiny_model_path, lora=lora, dtype=dtype, temperature=temperature)
        run.agent_yaml.write_text(text)
        run.agent_yaml.write_text(describe_run(resolve(load_config(run.agent_yaml), registry)))
        result = run.whole_model if lora == "null" else run.adapter
        shutil.copytree(trained / result.name, result)
        after = {**MEASURED, "success": {"mean": 0.5, "low": 0.34, "high": 0.66}}
        run.report.write_text(json.dumps({"before": MEASURED, "after": after, "steps": 3}))
        return run

    return make


@pytest.fixture(scope="session")
def greedy(running):
    """What a model says, greedily, on our own backend: ids after each of a few prompts."""
    from grpo_backends.transformers_engine import TransformersBackend
    from grpo_sdk import ModelSpec, Sampling

    def greedy(model: Path, adapter: Path | None, dtype: str = "float32") -> list[list[int]]:
        spec = ModelSpec("tiny", path=model, adapter=adapter, dtype=dtype, context=256)
        sampling = Sampling(max_tokens=12, temperature=0.0, stop_token_ids=(2,))
        with running(TransformersBackend(spec)) as started:
            return [started.run(started.backend.generate(ids, sampling)).ids for ids in PROMPTS]

    return greedy


PROMPTS = [[1, 4093, 198, 19556], [1, 9690, 198, 2683, 359], [57, 338, 253, 3056, 30]]


@pytest.fixture(scope="session")
def prompts() -> SimpleNamespace:
    return SimpleNamespace(ids=PROMPTS)
