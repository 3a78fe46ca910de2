"""The guide's examples are programs that run on the embedded model and end well.

Those that train run on a model of two layers, to which the embedded one's name is pointed; the guide's own test
trains the embedded one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_agent_framework.examples import console, feedback, shop, trained
from grpo_environments.order_desk.environment import OrderDeskEnvironment
from grpo_sdk.errors import RunError
from grpo_sdk.tools import as_tool

EXAMPLES = ("quick_start", "enhanced_customer_service", "grpo_showcase", "ultimate_customer_service_demo")


def example(name: str, *options: str, said: str = "", model: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"grpo_agent_framework.examples.{name}", *options],
        capture_output=True,
        text=True,
        timeout=900,
        input=said,
        env={**os.environ, **({"GRPO_MODEL_ALIASES": f"{console.MODEL}={model}"} if model else {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_what_it_is_and_what_it_takes(name: str) -> None:
    shown = example(name, "--help")

    assert f"python -m grpo_agent_framework.examples.{name}" in shown
    assert "--model" in shown


@pytest.mark.slow
def test_a_model_that_is_not_there_is_one_line_and_status_2() -> None:
    command = [sys.executable, "-m", "grpo_agent_framework.examples.quick_start", "--model", "./nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert done.returncode == 2
    assert "error: " in done.stdout
    assert "nowhere" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


async def test_the_shops_tools_answer_what_the_model_asks() -> None:
    assert json.loads(await shop.lookup_order("#k111"))["status"] == "delayed"
    assert json.loads(await shop.lookup_order("7")) == {"error": "order not found"}
    assert "30 days" in shop.search_help("How to return a lamp")


def test_the_shops_order_tool_is_the_one_that_agents_are_trained_with() -> None:
    [trained] = OrderDeskEnvironment().tools()
    own, theirs = as_tool(shop.lookup_order), as_tool(trained)
    assert (own.name, own.description, own.args) == (theirs.name, theirs.description, theirs.args)


RUN = """\
name: order-desk
model: {name: some/model, context: 384, dtype: float32}
agent: {system_prompt: Look it up.}
environment: order_desk
rewards: [task_success]
sampling: {max_tokens: 40}
"""


@pytest.fixture
def shop_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of ``make run`` below the working directory."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "order-desk" / "20260101-000000-aaaa"
    (run / "adapter").mkdir(parents=True)
    (run / "agent.yaml").write_text(RUN)
    return run


def asked(*, model: str = console.MODEL, run: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(model=model, run=run, max_tokens=60)


def test_the_examples_speak_with_the_run_that_was_trained_for_them(shop_run: Path, capsys) -> None:
    settings = trained.model_config(asked(), temperature=0.0)

    assert trained.is_trained(settings)
    assert settings["model"] == "some/model"
    assert Path(settings["adapter"]).resolve() == shop_run / "adapter"
    assert (settings["system_prompt"], settings["max_tokens"]) == ("Look it up.", 40)
    assert shop_run.name in capsys.readouterr().out, "never silently"


def test_without_a_run_an_example_says_that_the_model_only_shows_the_mechanics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = trained.model_config(asked(), temperature=0.3)

    assert settings == {"model_type": console.MODEL, "max_tokens": 60, "temperature": 0.3}
    assert "not trained for this shop" in capsys.readouterr().out


def test_another_model_is_taken_as_it_is(shop_run: Path, capsys) -> None:
    assert trained.model_config(asked(model="other/model"))["model_type"] == "other/model"
    assert capsys.readouterr().out == ""


def test_a_run_that_is_not_there_is_an_error(shop_run: Path) -> None:
    with pytest.raises(RunError, match="no run at nowhere"):
        trained.model_config(asked(run="nowhere"))


def test_a_run_without_an_adapter_is_not_taken_for_one_that_was_trained(shop_run: Path) -> None:
    (shop_run / "adapter").rmdir()

    assert not trained.is_trained(trained.model_config(asked()))
    with pytest.raises(RunError, match="has no adapter yet"):
        trained.model_config(asked(run=shop_run.name))


def test_the_ratings_are_about_both_kinds_of_answers_and_leave_the_unseen_ones_out() -> None:
    rated = feedback.rated_conversations()
    scores = [score for _, score in rated]

    assert min(scores) < 0.2 < 0.8 < max(scores)
    assert not [turns for turns, _ in rated for _, unseen in feedback.UNSEEN if turns == unseen]


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_start_talks_and_scores(model_path: Path) -> None:
    shown = example("quick_start", "--max-tokens", "16")

    assert shown.count("Agent: ") == 2
    assert re.search(r"customer_service: 0\.\d{3}", shown)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_enhanced_example_answers_a_known_question_out_of_the_cache(model_path: Path) -> None:
    shown = example("enhanced_customer_service", "--max-tokens", "16")

    assert "the same answer" in shown
    assert "user_interaction" in shown


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_enhanced_example_talks_with_the_person_at_the_keyboard(model_path: Path) -> None:
    shown = example("enhanced_customer_service", "--talk", "--max-tokens", "8", said="Hello there\n\n")

    assert shown.count("Agent: ") == 1


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_showcase_makes_grpo_updates_and_learns_a_reward(tiny_model_path: Path) -> None:
    shown = example("grpo_showcase", "--max-tokens", "16", "--iterations", "1", model=tiny_model_path)

    helps, blames = (
        float(re.search(rf"{name} .*?(\d\.\d+) *│", shown).group(1)) for name in ("helps", "blames")
    )
    assert helps > blames
    assert re.search(r"version of the weights +│ 1", shown)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ultimate_demo_goes_on_after_a_restart_and_trains(tiny_model_path: Path, tmp_path: Path) -> None:
    shown = example(
        "ultimate_customer_service_demo",
        *("--max-tokens", "12", "--episodes", "8", "--keep", str(tmp_path)),
        model=tiny_model_path,
    )

    assert "GRPO steps: 1." in shown
    assert (tmp_path / "conversations.sqlite").exists()
    assert list(tmp_path.glob("runs/*/*/report.json"))
