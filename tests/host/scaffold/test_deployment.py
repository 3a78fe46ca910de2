"""Writing a deployment: what is written, what is not overwritten, and what one is told."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("grpo_templates", reason="the templates are not installed: make install")

from grpo_host.cli import main
from grpo_host.scaffold import deployment
from grpo_host.scaffold.deployment import pins, wheel_command, write_deployment
from grpo_sdk import ConfigError
from grpo_sdk.errors import RunError

ROOT = Path(__file__).parents[3]

AGENT = """\
name: mine
model: scripted
backend: openai
environment: order_desk
rewards: [task_success]
serving: {drain_seconds: 90}
"""


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_all_files_are_written_with_nothing_left_to_fill_in(tmp_path: Path) -> None:
    written = write_deployment(tmp_path / "deep" / "deploy")

    names = files(tmp_path / "deep" / "deploy")
    assert {"Dockerfile", "compose.yaml", ".env", ".dockerignore", "kubernetes/deployment.yaml"} <= names
    assert len(written) == len(names)
    for path in written:
        assert not any(f"@{word}@" in path.read_text() for word in ("VERSION", "IMAGE", "GRACE", "PASSWORD"))


def test_the_version_is_the_one_that_is_installed(tmp_path: Path) -> None:
    write_deployment(tmp_path)

    assert (
        f"ARG VERSION={metadata.version('grpo-agent-framework')}\n" in (tmp_path / "Dockerfile").read_text()
    )


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("mine")

    with pytest.raises(RunError, match=r"has compose\.yaml already; .*--force"):
        write_deployment(tmp_path)
    assert files(tmp_path) == {"compose.yaml"}
    assert (tmp_path / "compose.yaml").read_text() == "mine"


def test_force_overwrites_all_but_the_password(tmp_path: Path) -> None:
    write_deployment(tmp_path)
    password = (tmp_path / ".env").read_text()
    (tmp_path / "compose.yaml").write_text("mine")

    write_deployment(tmp_path, force=True)

    assert (tmp_path / "compose.yaml").read_text() != "mine"
    assert (tmp_path / ".env").read_text() == password


def test_each_deployment_has_a_password_of_its_own_that_only_its_owner_reads(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_deployment(tmp_path / name)

    assert (tmp_path / "a" / ".env").read_text() != (tmp_path / "b" / ".env").read_text()
    assert stat.S_IMODE((tmp_path / "a" / ".env").stat().st_mode) == 0o600


def test_an_agent_of_ones_own_is_taken_with_the_time_that_it_drains(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(AGENT)
    write_deployment(tmp_path / "deploy", agent_yaml=tmp_path / "mine.yaml")

    assert (tmp_path / "deploy" / "agent.yaml").read_text() == AGENT
    grace = 90 + deployment.CLOSING_SECONDS
    assert f"stop_grace_period: {grace}s" in (tmp_path / "deploy" / "compose.yaml").read_text()


def test_an_agent_that_is_not_there_or_not_right_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("name: 7")
    for name in ("missing.yaml", "wrong.yaml"):
        with pytest.raises(ConfigError):
            write_deployment(tmp_path / "deploy", agent_yaml=tmp_path / name)

    assert not (tmp_path / "deploy").exists()


def test_a_directory_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RunError, match=r"cannot write .*file"):
        write_deployment(tmp_path / "file" / "deploy")


def test_versions_are_pinned_but_for_what_the_variants_differ_in() -> None:
    pinned = dict(pin.split("==") for pin in pins())

    assert pinned["pydantic"] == metadata.version("pydantic")
    assert pinned["annotated-types"] == metadata.version("annotated-types"), "what packages need in turn too"
    assert pinned["trl"] == metadata.version("trl"), "those of the image's extras too"
    assert not [name for name in pinned if name.startswith(deployment.UNPINNED)]
    assert "pytest" not in pinned


@pytest.fixture
def installed_from(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Lets the framework have been installed from an address, or from an index."""

    def set_origin(url: str | None) -> None:
        class Distribution:
            @staticmethod
            def read_text(name: str) -> str | None:
                return json.dumps({"url": url}) if url and name == "direct_url.json" else None

        monkeypatch.setattr(deployment.metadata, "distribution", lambda _: Distribution)

    return set_origin


def test_a_wheel_is_copied_to_where_the_image_looks(
    tmp_path: Path, installed_from: Callable[[str | None], None]
) -> None:
    write_deployment(tmp_path / "deploy")
    wheel = tmp_path / "with blank" / "grpo_agent_framework-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"PK")
    installed_from(wheel.as_uri())
    command = wheel_command()
    assert command is not None
    subprocess.run(command, shell=True, cwd=tmp_path / "deploy", check=True)
    assert (tmp_path / "deploy" / "wheels" / wheel.name).read_bytes() == b"PK"


def test_what_an_index_has_the_image_takes_from_there(installed_from: Callable[[str | None], None]) -> None:
    installed_from(None)
    assert wheel_command() is None


def test_a_wheel_that_is_gone_is_an_error_and_nothing_is_written(
    tmp_path: Path, installed_from: Callable[[str | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    installed_from((tmp_path / "gone.whl").as_uri())
    assert main(["new", "deployment", str(tmp_path / "deploy")]) == 2
    assert "gone.whl, which grpo-agent-framework was installed from, is not there" in capsys.readouterr().err
    assert not (tmp_path / "deploy").exists()


def test_the_command_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["new", "deployment", str(tmp_path / "deploy")])

    said = capsys.readouterr()
    assert status == 0
    assert said.out.splitlines() == [
        f"cd {tmp_path / 'deploy'}",
        f"pip wheel --no-deps --wheel-dir wheels {ROOT}",
        "docker compose build",
        "docker compose run --rm server keys create --name me --scopes chat,train,admin",
        "docker compose up",
    ]
    assert said.err.startswith(f"wrote {len(files(tmp_path / 'deploy'))} files to ")


def test_the_command_refuses_to_overwrite_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["new", "deployment", str(tmp_path)])
    capsys.readouterr()

    assert main(["new", "deployment", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} has ")


def test_files_that_agent_yaml_names_and_that_are_not_written_are_told(tmp_path, capsys):
    (tmp_path / "adapter").mkdir()
    agent_yaml = tmp_path / "agent.yaml"
    agent_yaml.write_text(
        AGENT.replace("model: scripted", f"model: {{name: scripted, adapter: {tmp_path}/adapter}}")
    )

    main(["new", "deployment", str(tmp_path / "deploy"), "--agent", str(agent_yaml)])

    assert f"not among them: {tmp_path / 'adapter'}, which {agent_yaml} names" in capsys.readouterr().err
