"""What the README and the docs say is true, as far as it can be run here."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from grpo_host.assembly.tools import make_tools, tool_name
from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins
from grpo_host.plugins.options import resolve_use
from grpo_host.plugins.use import PluginUse
from grpo_sdk import hooks
from grpo_sdk.testing import make_trajectory

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), re.DOTALL)


def test_the_readme_plugin_is_a_plugin_whose_reward_scores() -> None:
    namespace: dict[str, object] = {}
    exec(snippets(ROOT / "README.md", "python")[0], namespace)
    registry = load_plugins(disable=True)
    plugin = type("Plugin", (), {"grpo_rewards": staticmethod(namespace["grpo_rewards"])})

    registry.register(plugin, "readme")

    reward = registry.get("reward", "brief").make(words=2)
    said = make_trajectory([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a b c d"}])
    assert reward.score(said) == 0.5


def test_the_documented_bundle_brings_its_tools() -> None:
    namespace: dict[str, object] = {}
    exec(snippets(ROOT / "docs" / "tools.md", "python")[0], namespace)
    registry = load_plugins(disable=True)
    registry.register(type("Plugin", (), {"grpo_tools": staticmethod(namespace["grpo_tools"])}), "docs")

    tools = make_tools(resolve_use("tool", PluginUse(name="notebook"), registry))

    assert [tool_name(tool) for tool in tools] == ["write_note", "read_notes"]


def test_the_documented_agent_yaml_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(snippets(ROOT / "docs" / "agent-yaml.md", "yaml")[0])

    loaded = load_config(path)

    assert set(loaded.config.model_fields_set) == set(type(loaded.config).model_fields)


@pytest.mark.torch
@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").glob("*/agent.yaml")), ids=lambda p: p.parent.name
)
def test_the_examples_are_ready_to_run(
    example: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    check(resolve(load_config(example), load_plugins())).raise_for_problems()


def test_every_hook_is_documented_with_its_arguments() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text()
    for name, function in vars(hooks.GrpoHooks).items():
        if name.startswith("grpo_"):
            arguments = function.__code__.co_varnames[1 : function.__code__.co_argcount]
            shown = f"`{name}({', '.join(arguments)})`" if arguments else f"`{name}`"
            assert shown in text, shown


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()

    for page in sorted((ROOT / "docs").rglob("*.md")):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "index.md" or f"]({name})" in index, name


def test_make_lists_every_target_that_the_readme_names() -> None:
    listed = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "check", "bench", "docs", "format", "install"):
        assert f"make {target}" in listed


def test_the_page_on_scaling_says_what_the_benchmarks_say_and_what_follows_from_it() -> None:
    results = json.loads((ROOT / "bench" / "results.json").read_text())

    def measured(bench: str, name: str) -> float:
        (value,) = (row["value"] for row in results[bench]["rows"] if row["name"].startswith(name))
        return float(value)

    own = measured("scaling", "of them not those that its group begins with")
    tokens = own + (measured("scaling", "tokens of an episode") - own) / 8
    token = measured("grpo_step", "ours:") / (32 * (93 + 46 / 8))
    sampling, training = 1 / measured("rollouts", "rollout engine on `vllm`, against TRL"), token * tokens
    turn, giving, writing = (
        measured("scaling", f"CPU of {what}") for what in ("a turn", "giving", "writing a trajectory")
    )
    given, written = (measured("scaling", f"a trajectory as {how}") for how in ("ranks give it", "it is"))
    figures = [
        (r"([\d.]+) s an episode on one engine", sampling),
        (r"training pass \| ([\d.]+) s an episode", training),
        (r"so ([\d.]+) ms a token; an episode here has (\d+)", 1000 * token, tokens),
        (r"reply \| ([\d.]+) ms of CPU", turn),
        (r"other ranks \(([\d.]+) kB\) \| ([\d.]+) ms", given, giving),
        (r"writing a trajectory \(([\d.]+) kB of JSON\) \| ([\d.]+) ms", written, writing),
        (r"\| 10² \| R = 1, P = 1: (\d+) s, (\d+) s", 100 * sampling, 100 * training),
        (
            r"turns \((\d+) s; (\d+) s with R = 4",
            100 * (sampling + training),
            100 * (sampling / 4 + training),
        ),
        (r"\| ([\d.]+) s of CPU \|", 100 * 4 * turn / 1000),
        (r"\| 10⁴ \| R = 1, P = 1: (\d+) min, (\d+) min", 1e4 * sampling / 60, 1e4 * training / 60),
        (r"R = 100, P = 200: (\d+) s, (\d+) s", 100 * sampling, 50 * training),
        (r"takes in (\d+) MB in ([\d.]+) s", 10 * given, 10 * giving),
        (r"rank 0 writes for ([\d.]+) s", 10 * writing),
        (r"\| 10⁶ \| R = 1, P = 1: (\d+) h, (\d+) h", 1e6 * sampling / 3600, 1e6 * training / 3600),
        (r"R = 10,000, P = 20,000: (\d+) s, (\d+) s", 100 * sampling, 50 * training),
        (r"all trajectories, ([\d.]+) GB in (\d+) s", given, 1000 * giving),
        (r"also writes ([\d.]+) GB in (\d+) s", written, 1000 * writing),
        (r"keeps ([\d.]+) ranks busy", training / sampling),
        (r"asks for about ([\d,]+) turns a second", 1000 / turn),
        (r"replica answers here \((\d+) a second\)", 4 / sampling),
        (
            r"loop was ([\d.]+) ms late at p99, and with 10,000, [a-z ,]+, (\d+) ms",
            measured("episodes", "2,000 episodes: lag"),
            measured("episodes", "10,000 episodes: lag"),
        ),
        (r"a turn took ([\d.]+) ms of CPU", measured("episodes", "2,000 episodes: CPU")),
        (
            r"waits takes (\d+) kB of memory and one that has ended (\d+) kB",
            measured("episodes", "10,000 episodes: memory of one that waits"),
            measured("episodes", "10,000 episodes: memory of one that has ended"),
        ),
        (r"in a process of (\d+) MB", measured("episodes", "10,000 episodes: the process")),
        (r"sampling from ([\d,]+) episodes a step on", 100 * sampling / ((giving + writing) / 1000)),
    ]
    page = (ROOT / "docs" / "scaling.md").read_text()
    for pattern, *values in figures:
        found = re.search(pattern, page)
        assert found, pattern
        said = [float(text.replace(",", "")) for text in found.groups()]
        assert said == pytest.approx(values, rel=0.1), pattern
