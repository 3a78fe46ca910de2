"""What `grpo-host new plugin` and `new agent` write is right as it is, and says what to do next."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("grpo_templates", reason="the templates are not installed: make install")

from grpo_host.cli import main
from grpo_host.plugins import load_plugins
from grpo_host.plugins.record import Kind
from grpo_host.scaffold.authoring import KINDS, parse_kinds, plugin_names, write_agent, write_plugin
from grpo_sdk import ConfigError, Task
from grpo_sdk.testing import make_trajectory

MIXES: list[Sequence[Kind]] = [*((kind,) for kind in KINDS), KINDS]
OFFERED = {
    "reward": "right_number",
    "tool": "add_numbers",
    "environment": "sums",
    "strategy": "short_answers",
    "backend": "adder",
}


def files(directory: Path) -> set[str]:
    """What was written there; the bytecode of a reward that was imported is not counted."""
    paths = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return {str(path) for path in paths if "__pycache__" not in path.parts}


def describe(package: Path, site: Path) -> None:
    """Let ``site`` say what an installation of ``package`` would: its name and entry points."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = (f"{key} = {value}" for key, value in project["entry-points"]["grpo"].items())
    (info / "entry_points.txt").write_text("\n".join(["[grpo]", *lines]))


def checked(agent_yaml: Path, backend: str) -> int:
    """The status of ``grpo-host check``, without a model."""
    return main(["check", str(agent_yaml), "--for", "rollout", "--set", f"backend={backend}"])


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Makes a package importable here, with its entry points."""

    def install(package: Path) -> None:
        describe(package, tmp_path / "site")
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.syspath_prepend(package / "src")

    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if name.startswith("acme_"):
            del sys.modules[name]


@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
def test_each_mix_of_kinds_is_found_by_the_host_and_its_agent_yaml_is_right(
    kinds: Sequence[Kind], tmp_path: Path, install: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "acme-things"
    write_plugin(package, kinds)
    install(package)

    [plugin] = load_plugins(["acme-things"]).plugins
    assert plugin.offers == {kind: (OFFERED[kind],) for kind in kinds}
    for backend in ("scripted", *(["acme-things:adder"] if "backend" in kinds else [])):
        assert checked(package / "agent.yaml", backend) == 0, capsys.readouterr().err


@pytest.mark.parametrize("kinds", MIXES, ids="-".join)
def test_each_mix_of_kinds_passes_its_own_linter_and_has_no_trace_of_the_template(
    kinds: Sequence[Kind], tmp_path: Path
) -> None:
    package = tmp_path / "a-name-that-is-long-enough-to-make-lines-too-long-if-they-can-be"
    write_plugin(package, kinds)

    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        done = subprocess.run(ruff, cwd=package, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    for path in package.rglob("*"):
        text = path.read_text() if path.is_file() else ""
        assert not [mark for mark in ("acme", "# if ", "# end", "<!-- ") if mark in f"{path}{text}"], path
    assert {path for path in files(package) if path.startswith("src/") and Path(path).stem in KINDS} == {
        f"src/{package.name.replace('-', '_')}/{kind}.py" for kind in kinds
    }


def test_the_tests_of_a_written_plugin_pass(tmp_path: Path) -> None:
    package = tmp_path / "acme-things"
    write_plugin(package, KINDS)
    describe(package, tmp_path / "site")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=package,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(package / "src")]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_PLUGINS": "grpo_host.testing.pytest_plugin",
        },
    )

    assert done.returncode == 0, done.stdout
    for kind in KINDS:
        assert f"tests/test_{kind}.py ." in done.stdout


def test_without_the_plugins_own_kinds_agent_yaml_names_built_in_ones(tmp_path: Path) -> None:
    write_plugin(tmp_path / "acme-tool", ["tool"])

    agent = (tmp_path / "acme-tool" / "agent.yaml").read_text()
    assert "environment: {name: arithmetic" in agent
    assert "- task_success" in agent
    assert "acme-tool:add_numbers" in agent
    assert "strategy" not in agent


def test_an_agent_is_written_that_is_right_and_whose_reward_scores_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_agent(tmp_path / "My_First")

    assert checked(tmp_path / "My_First" / "agent.yaml", "scripted") == 0
    said = capsys.readouterr().out
    assert "agent        my-first" in said
    assert "dataset (48 train, 12 held_out tasks)" in said
    assert "1 has_answer" in said
    assert files(tmp_path / "My_First") == {
        *("agent.yaml", "rewards.py", "rows.jsonl", "README.md", ".gitignore")
    }


@pytest.mark.parametrize(("said", "score"), [("It is 4.", 1.0), ("14", 0.0), ("", 0.0)])
def test_the_reward_of_a_written_agent_finds_whole_answers(
    said: str, score: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_agent(tmp_path / "sums")
    reward = runpy.run_path(str(tmp_path / "sums" / "rewards.py"))["has_answer"]()
    assert reward.score(make_trajectory(said, task=Task("2+2", {"answer": 4}))) == score


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme rewards", r'"acme rewards" cannot be the name of a plugin: use letters, digits and dashes'),
        ("-acme", "cannot be the name of a plugin: use letters"),
        ("2fast", 'its package would be "2fast", which Python cannot import'),
        ("class", "use no word of Python's"),
        ("json", 'there is a package "json" already'),
        ("Pydantic", r'there is a package "pydantic" already \(.*pydantic/__init__\.py\)'),
        ("grpo-sdk", 'there is a package "grpo_sdk" already'),
        ("a" * 65, "has 65 characters; a name has at most 64"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_before_anything_is_written(
    name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_plugin(tmp_path / name, ["reward"])
    assert not files(tmp_path)


def test_an_agents_name_is_refused_where_agent_yaml_would_refuse_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of an agent"):
        write_agent(tmp_path / "naïve")
    assert not files(tmp_path)


def test_a_package_may_be_written_again_where_it_is_installed_from(
    tmp_path: Path, install: Callable[[Path], None]
) -> None:
    package = tmp_path / "Acme.Things"
    write_plugin(package, ["reward"])
    install(package)

    assert plugin_names(package) == ("acme-things", "acme_things")
    write_plugin(package, ["reward", "tool"], force=True)
    assert (package / "src" / "acme_things" / "tool.py").is_file()


@pytest.mark.parametrize("scaffold", ["agent", "plugin"])
def test_nothing_that_exists_is_overwritten_without_force(
    scaffold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "acme-things"
    directory.mkdir()
    (directory / "agent.yaml").write_text("mine")
    command = ["new", scaffold, str(directory)]

    assert main(command) == 2
    assert f"{directory} has agent.yaml already; choose another" in capsys.readouterr().err
    assert files(directory) == {"agent.yaml"}

    assert main([*command, "--force"]) == 0
    assert "name: acme-things" in (directory / "agent.yaml").read_text()


def test_kinds_are_given_in_any_order_and_a_wrong_one_is_named_with_the_right_one() -> None:
    assert parse_kinds("tool, reward") == ["reward", "tool"]
    with pytest.raises(ConfigError, match=r'no kind "rewards"\. Did you mean "reward"'):
        parse_kinds("tool,rewards")


def test_the_commands_say_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.prefix, "bin", name)))
    main(["new", "plugin", str(tmp_path / "acme-things")])
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"cd {tmp_path / 'acme-things'}",
        "pip install -e '.[test]'",
        "pytest",
        "grpo-host check agent.yaml",
        "grpo-host run agent.yaml",
    ]
    assert said.err.startswith(f"wrote {len(files(tmp_path))} files to ")

    main(["new", "agent", str(tmp_path / "my-agent")])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "grpo-host check agent.yaml",
        "grpo-host run agent.yaml",
        "grpo-host serve agent.yaml --run latest",
    ]


def test_where_the_environment_is_not_active_its_activation_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "activate").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("PATH", "")

    main(["new", "agent", str(tmp_path / "my-agent")])
    assert capsys.readouterr().out.splitlines()[0] == f". {tmp_path / 'env' / 'bin' / 'activate'}"


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_that_are_printed_install_test_check_and_train(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    [packages] = (env / "lib").glob("python*/site-packages")
    here = sysconfig.get_path("purelib")
    (packages / "here.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    for program, module in (("pip", "pip"), ("pytest", "pytest"), ("grpo-host", "grpo_host.cli")):
        (env / "bin" / program).write_text(f'#!/bin/sh\nexec {env}/bin/python -m {module} "$@"\n')
        (env / "bin" / program).chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # What pip would download is installed: nothing is, and hatchling builds here.
    clean |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    clean |= {"PYTEST_PLUGINS": "grpo_host.testing.pytest_plugin"}
    clean |= {"PATH": f"{env / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def shell(command: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    printed = shell(f"grpo-host new plugin acme-things --kinds {','.join(KINDS)}")
    small = f" --set model.name={tiny_model_path} --set training.steps=1 --set evaluation.episodes=2"
    small += " --set training.tasks_per_step=2 --set training.group_size=2"
    said = shell(printed.rstrip() + small)

    assert "ok: ready for train" in said
    [adapter] = tmp_path.glob("acme-things/runs/acme-things/*/adapter/adapter_model.safetensors")
    assert adapter.stat().st_size
