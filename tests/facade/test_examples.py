"""The guide's examples are programs that run on the embedded model and end well."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_agent_framework.examples import feedback, shop

EXAMPLES = ("quick_start", "enhanced_customer_service", "grpo_showcase", "ultimate_customer_service_demo")


def example(name: str, *options: str, directory: Path | None = None, said: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"grpo_agent_framework.examples.{name}", *options],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=directory,
        input=said,
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


def test_the_shops_tools_answer_what_the_model_asks() -> None:
    assert "delayed by the carrier" in shop.check_order_status("#1042")
    assert "There is no order 7." in shop.check_order_status("7")
    assert "30 days" in shop.search_help("How to return a lamp")


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
def test_the_showcase_makes_grpo_updates_and_learns_a_reward(model_path: Path) -> None:
    shown = example("grpo_showcase", "--max-tokens", "16", "--iterations", "1")

    helps, blames = (
        float(re.search(rf"{name} .*?(\d\.\d+) *│", shown).group(1)) for name in ("helps", "blames")
    )
    assert helps > blames
    assert re.search(r"version of the weights +│ 1", shown)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ultimate_demo_goes_on_after_a_restart_and_trains(model_path: Path, tmp_path: Path) -> None:
    shown = example(
        "ultimate_customer_service_demo", "--max-tokens", "12", "--episodes", "8", "--keep", str(tmp_path)
    )

    assert "GRPO steps: 1." in shown
    assert (tmp_path / "conversations.sqlite").exists()
    assert list(tmp_path.glob("runs/*/*/report.json"))
