"""agent.yaml with several environments: what is wrong with them is said where it stands."""

from __future__ import annotations

import pytest

from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.problems import InvalidConfigError
from grpo_host.config.resolve import resolve
from grpo_host.config.resolved import dump_resolved

pytestmark = pytest.mark.torch  # each agent is to be trained

SHOPS = "[shop, {name: shop, as: store, weight: 2, options: {tools: true}}]"


@pytest.fixture
def mixed(agent_yaml, registry, tmp_path):
    """Checks the shop's agent in these environments."""

    def mixed(environments: str = SHOPS, *overrides: str, **options):
        path = tmp_path / agent_yaml
        text = path.read_text().replace("environment: shop", f"environments: {environments}")
        path.write_text(text)
        return check(resolve(load_config(agent_yaml, overrides), registry), **options)

    return mixed


def test_a_mixture_has_the_tasks_and_the_tools_of_all(mixed):
    found = mixed()

    assert [str(problem) for problem in found.problems] == []
    assert found.tasks == {"train": 16, "held_out": 80}
    assert found.tools == ["lookup"]


def test_a_mixture_is_resolved_and_read_back_as_it_is(mixed, registry, tmp_path):
    mixed()
    loaded = load_config("agent.yaml")
    text = dump_resolved(resolve(loaded, registry))
    (tmp_path / "resolved.yaml").write_text(text)

    assert "environment:" not in text
    again = load_config("resolved.yaml").config.environments
    assert [(use.label, use.weight) for use in again] == [("shop", 1.0), ("store", 2.0)]


@pytest.mark.parametrize(
    ("environments", "said"),
    [
        ("[shop, shop]", 'environments[1].name: the environment "shop" is listed twice. Leave one out'),
        ("[shop, {name: shop, as: a/b}]", 'environments[1].name: "a/b" has a / in it'),
        ("[shop, shp]", 'environments[1].name: no environment "shp". Did you mean "shop"?'),
        ("[shop, {name: shop, as: b, options: {train: many}}]", "[1].options.train: give a whole number"),
        ("[shop, {name: shop, as: b, options: {fails: no}}]", "environments[1]: it could not be tried: rese"),
        ("[shop, {name: shop, as: b, options: {train: 0}}]", "environments[1]: it has no train tasks"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(mixed, environments, said):
    assert [said in str(problem) for problem in mixed(environments).problems] == [True]


def test_a_reward_names_environments_that_are_there(mixed):
    [problem] = mixed(SHOPS, "rewards=[kind, {name: kind, as: b, environments: [stor]}]").problems
    assert 'no environment "stor" is in the mixture. Did you mean "store"?' in str(problem)


def test_each_environment_has_a_reward(mixed):
    [problem] = mixed(SHOPS, "rewards=[{name: kind, environments: [shop]}]").problems
    assert 'environments[1]: no reward scores the episodes of "store"' in str(problem)


def test_one_environment_or_several_but_not_both(mixed):
    with pytest.raises(InvalidConfigError, match="give environment, or environments for a mixture, not both"):
        mixed(SHOPS, "environment=shop")


def test_a_run_takes_the_tasks_of_all_together(mixed):
    [problem] = mixed(SHOPS, "evaluation.episodes=81").problems
    assert "81 episodes need as many tasks, and the environment has 80 in held_out" in str(problem)
