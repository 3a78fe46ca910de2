"""The guide's Docker and Kubernetes blocks as docs/guide-names.md prints them, to work."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

from grpo_host.models.embedded import EMBEDDED

ROOT = Path(__file__).parents[2]
NAMES = (ROOT / "docs" / "guide-names.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", NAMES, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def dockerfile() -> dict[str, str]:
    """Instruction → its arguments, continued lines joined."""
    joined = block("dockerfile").replace("\\\n", " ")
    return dict(line.split(maxsplit=1) for line in joined.splitlines() if line)


@pytest.fixture
def manifest() -> Any:
    return YAML(typ="safe", pure=True).load(block("yaml"))


def container(manifest: Any) -> Any:
    [only] = manifest["spec"]["template"]["spec"]["containers"]
    return only


def test_the_image_has_a_python_that_the_framework_takes(dockerfile: dict[str, str]) -> None:
    version = re.fullmatch(r"python:([\d.]+)-slim", dockerfile["FROM"])
    assert version
    assert version[1] in SpecifierSet(PROJECT["requires-python"])


def test_the_image_installs_this_version_with_extras_that_there_are(dockerfile: dict[str, str]) -> None:
    words = shlex.split(dockerfile["RUN"])
    [needed] = [Requirement(word) for word in words if word.startswith(PROJECT["name"])]
    assert str(needed.specifier) == f"=={PROJECT['version']}"
    assert needed.extras <= PROJECT["optional-dependencies"].keys()
    install = words[words.index("grpo-host") :]
    assert install[:3] == ["grpo-host", "models", "install"]
    assert install[3] in EMBEDDED


def test_the_images_command_listens_where_others_reach_it(dockerfile: dict[str, str], tmp_path: Path) -> None:
    given = dict(pair.split("=") for pair in shlex.split(dockerfile["ENV"]))
    assert given["HOST"] == "0.0.0.0"
    program, *arguments = json.loads(dockerfile["CMD"])
    assert program == "python"
    # Without a key such a server does not start, and says so: the address has been read.
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "HOST": given["HOST"], "GRPO_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0
    assert "0.0.0.0" in done.stderr
    assert "grpo-host keys create" in done.stderr


def test_the_manifest_says_what_the_templates_say(manifest: Any, deployment: Any) -> None:
    ours = deployment.yaml("kubernetes/deployment.yaml")
    theirs, own = container(manifest), container(ours)
    assert theirs["ports"][0]["containerPort"] == own["ports"][0]["containerPort"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert theirs[probe]["httpGet"]["path"] == own[probe]["httpGet"]["path"]
    values = {item["name"]: item for item in own["env"]}
    for item in theirs["env"]:
        assert item == values[item["name"]]
    assert theirs["image"] == f"{PROJECT['name']}:{PROJECT['version']}"


def test_the_manifest_is_valid(manifest: Any) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    schemas.validate(manifest, "1.37", strict=True)
