"""The guide's RULER: a judge that is given, named, taken from the environment, or missing."""

from __future__ import annotations

import asyncio

import pytest

from grpo_agent_framework.rewards.ruler_reward import RulerReward, create_customer_service_ruler
from grpo_host.backends.wrapper import innermost
from grpo_host.cache import MemoryCache
from grpo_host.config import backend_checks
from grpo_sdk import ConfigError, GroupReward
from grpo_sdk.testing import ScriptedBackend, make_trajectory

ANSWER = '{"1": 0.25, "2": 0.75}'


@pytest.fixture(autouse=True)
def _no_judge(monkeypatch):
    monkeypatch.delenv("GRPO_JUDGE_MODEL", raising=False)
    monkeypatch.delenv("GRPO_JUDGE_BACKEND", raising=False)


def test_without_a_judge_it_says_how_to_name_one():
    with pytest.raises(ConfigError, match="set the environment variable GRPO_JUDGE_MODEL"):
        create_customer_service_ruler(weight=0.3)


def test_a_judge_that_is_given_judges_in_any_number_of_event_loops():
    reward = create_customer_service_ruler(weight=0.3, judge=ScriptedBackend(replies=[ANSWER]), cache_size=0)
    group = [make_trajectory("I will send a new one."), make_trajectory("No.")]
    for _ in range(2):
        results = asyncio.run(reward.score_group(group))
        assert [result.value for result in results] == [0.5, 0.5]
    asyncio.run(reward.aclose())
    assert isinstance(reward, GroupReward)
    assert reward.weight == 0.3


async def test_rulers_on_the_same_server_share_verdicts():
    cache = MemoryCache()
    group = [make_trajectory("I will send a new one."), make_trajectory("No.")]
    made = []
    for _ in range(2):
        judge = ScriptedBackend(replies=[ANSWER])
        judge.base_url = "http://judge.example"
        made.append(create_customer_service_ruler(judge=judge, cache=cache))
        await made[-1].score_group(group)
        await made[-1].aclose()
    assert [reward.usage.cached > 0 for reward in made] == [False, True]


def test_the_environment_names_the_judge(monkeypatch):
    monkeypatch.setenv("GRPO_JUDGE_MODEL", "openai/gpt-4o-mini")
    reward = create_customer_service_ruler()
    assert isinstance(reward, RulerReward)
    assert reward.judge.model.name == "openai/gpt-4o-mini"


def test_a_name_is_a_model_of_litellm():
    judge = create_customer_service_ruler(judge="gpt-4o-mini").judge
    assert type(innermost(judge)).__name__ == "LiteLLMBackend"


@pytest.mark.torch
def test_another_backend_may_judge(monkeypatch):
    monkeypatch.setenv("GRPO_JUDGE_MODEL", "not-a-model")
    monkeypatch.setenv("GRPO_JUDGE_BACKEND", "transformers")
    with pytest.raises(ConfigError, match='the judge "not-a-model" on transformers: no model'):
        create_customer_service_ruler()


def test_a_backend_that_is_not_installed_is_an_error_at_creation(monkeypatch):
    monkeypatch.setattr(backend_checks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="litellm needs the package litellm, which is not installed"):
        create_customer_service_ruler(judge="gpt-4o-mini")


def test_the_rubric_is_one_of_customer_service():
    assert "customer" in create_customer_service_ruler(judge="gpt-4o-mini").rubric


def test_a_judge_that_is_no_backend_is_refused():
    with pytest.raises(ConfigError, match=r"judge: object is no backend. Give one, or a model's name"):
        create_customer_service_ruler(judge=object())
