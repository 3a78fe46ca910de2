"""What a request becomes: an agent.yaml that the checks of `grpo-host run` find nothing wrong with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from grpo_host.checks.check import check
from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.config.resolved import dump_resolved
from grpo_host.openai_protocol.errors import ApiError
from grpo_host.plugins import Registry
from grpo_host.serving.jobs.plan import Plan, default_config, with_output
from grpo_host.serving.jobs.request import TrainRequest

pytestmark = pytest.mark.torch  # each agent is to be trained

AGENT = """\
name: shop
model: {{name: smollm2-135m, context: 512}}
backend: {{name: transformers, options: {{max_batch: 8}}}}
agent:
  system_prompt: You sell shoes for ${{SHOP}}.
  tools: [{{name: knowledge_base, options: {{path: "{documents}", top_k: 2}}}}]
environment: {{name: support_desk, options: {{topics: [billing]}}}}
rewards: [{{name: length, weight: 0.5, options: {{high: 60}}}}]
sampling: {{temperature: 0.7, top_p: 0.9, max_tokens: 32}}
training: {{learning_rate: 1.0e-4, micro_batch: 8, warm_start: {{epochs: 1}}, early_stopping: {{}}, world_size: 2}}
"""


@pytest.fixture
def agent_yaml(tmp_path, monkeypatch):
    """The server's, with a secret from the environment and a tool that reads a path."""
    monkeypatch.setenv("SHOP", "Hush & Sons")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "shoes.md").write_text("# Shoes\nThey come in pairs.")
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT.format(documents=tmp_path / "documents"))
    return path


@pytest.fixture
def plan(agent_yaml, registry):
    return Plan(load_config(agent_yaml), registry)


@pytest.fixture
def plain(registry):
    """Of a server without an agent.yaml."""
    return Plan(default_config("agent"), registry)


def load(made, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(with_output(made.config, tmp_path / "runs"))
    return load_config(path)


def ask(**fields):
    return TrainRequest(**{"prompts": ["Hello", "I need help"], **fields})


GUIDE = {
    "prompts": ["Hello", "I need help"],
    "strategy": "computational",
    "num_iterations": 5,
    "use_neural_rewards": True,
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        *({"strategy": name} for name in ("customer_service", "technical_support", "sales", "tutoring")),
        {"strategy": "advanced_customer_service", "expected_responses": ["Let me check that."]},
        {"strategy": "plain", "held_out_prompts": ["Where is it?"], "customer_replies": ["And now?"]},
        {"prompts": [], "environment": "support_desk", "evaluation_episodes": 4, "rewards": ["task_success"]},
        {"prompts": [], "environment": {"name": "arithmetic"}, "group_size": 4, "prompts_per_iteration": 3},
        {"tools": ["calculator"], "max_tokens": 16, "learning_rate": 1e-5, "seed": 7},
    ],
)
def test_a_job_passes_the_checks_of_a_run(plain, registry, tmp_path, fields):
    made = load(plain.make(ask(**fields)), tmp_path)

    assert check(resolve(made, registry)).problems == []


def test_the_servers_model_backend_and_agent_stand(plan, tmp_path):
    made = load(plan.make(ask(num_iterations=5)), tmp_path).config

    assert (made.name, made.model.name, made.model.context) == ("shop", "smollm2-135m", 512)
    assert made.backend.options["max_batch"] == 8
    assert made.agent.system_prompt == "You sell shoes for Hush & Sons."
    assert [tool.name for tool in made.agent.tools] == ["knowledge_base"]
    assert (made.training.steps, made.training.learning_rate) == (5, 1e-4)
    assert Path(made.output) == tmp_path / "runs"


def test_a_job_samples_and_trains_as_grpo_needs_it_whatever_serving_does(plan, tmp_path):
    made = load(plan.make(ask(group_size=6)), tmp_path).config

    assert (made.sampling.temperature, made.sampling.top_p, made.sampling.top_k) == (0.7, 1.0, 0)
    assert (made.training.tasks_per_step, made.training.group_size) == (2, 6)
    assert made.training.warm_start is None
    assert made.training.early_stopping is None
    assert made.training.world_size == 1


def test_secrets_are_references_in_what_is_kept(plan):
    config = plan.make(ask()).config

    assert "${SHOP}" in config
    assert "Hush" not in config


def test_a_request_cannot_read_the_servers_environment(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    texts = ["${OPENAI_API_KEY}", "$${SHOP}", "${", "${NOT_THERE:-x}"]
    made = load(plan.make(ask(prompts=texts, customer_replies=texts)), tmp_path).config

    assert made.environment.options["prompts"] == texts
    assert made.environment.options["replies"] == texts


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=8))
@example(["0\x85", "a\u2028b", "\ufeff", "x\r\ny ", "{}: [!a]", "1e3", "null", "${A}", "\x00\x07"])
@pytest.mark.slow
def test_every_text_comes_through_as_it_was_sent(plain, registry, tmp_path, texts):
    try:
        request = TrainRequest.model_validate({"prompts": texts})
    except ValidationError:
        return  # surrogates, or nothing but white space
    made = load(plain.make(request), tmp_path)

    assert made.config.environment.options["prompts"] == list(dict.fromkeys(texts))
    # What the run writes of it, to be resumed from.
    (tmp_path / "agent.yaml").write_text(dump_resolved(resolve(made, registry)))
    options = load_config(tmp_path / "agent.yaml").config.environment.options
    assert options == {**options, **made.config.environment.options}


def test_a_strategy_brings_its_rewards(plain):
    def rewards(**fields):
        return [use["name"] for use in plain.values(ask(**fields))["rewards"]]

    assert rewards(strategy="sales") == ["sales"]
    assert rewards(strategy="advanced_customer_service") == ["customer_service"]
    assert rewards() == ["empathy", "professionalism", "action_orientation"]
    assert rewards(strategy="sales", rewards=["length"]) == ["length"]


def test_what_the_server_gives_a_reward_a_job_has_too(plan):
    (reward,) = plan.values(ask(rewards=[{"name": "length", "options": {"low": 5}}]))["rewards"]

    assert (reward["options"]["low"], reward["options"]["high"]) == (5, 60)
    assert reward["weight"] == 1.0, "the weight is the request's"


def test_a_tool_that_needs_a_path_has_the_servers_and_no_other(plan, agent_yaml):
    (tool,) = plan.values(ask(tools=[{"name": "knowledge_base", "options": {"top_k": 1}}]))["agent"]["tools"]
    assert tool["options"] == {
        "path": str(agent_yaml.parent / "documents"),
        "top_k": 1,
        "snippet_words": tool["options"]["snippet_words"],
    }

    with pytest.raises(ApiError) as told:
        plan.make(ask(tools=[{"name": "knowledge_base", "options": {"path": "/etc"}}]))
    assert (told.value.status, told.value.code, told.value.param) == (422, "option_not_allowed", "tools[0]")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"strategy": "nothing_like_it"}, "unknown_name"),
        ({"rewards": ["no_such_reward"]}, "unknown_name"),
        ({"rewards": ["os:system"]}, "unknown_name"),
        ({"tools": ["python"]}, "name_not_allowed"),
        ({"tools": ["grpo-agent-framework:mcp"]}, "name_not_allowed"),
        ({"tools": ["knowledge_base"]}, "invalid_option"),  # its path is the server's to give
        ({"rewards": ["ruler"]}, "invalid_option"),  # so is its judge
        (
            {
                "rewards": [
                    {
                        "name": "ruler",
                        "options": {"judge": {"name": "openai", "model": "http://169.254.169.254"}},
                    }
                ]
            },
            "option_not_allowed",
        ),
        ({"rewards": [{"name": "ruler", "options": {"rubric": "any text"}}]}, "option_not_allowed"),
        ({"rewards": [{"name": "length", "options": {"high": "many"}}]}, "invalid_option"),
        ({"rewards": [{"name": "length", "options": {"high": 10**12}}]}, "invalid_option"),
        ({"rewards": [{"name": "length", "options": {"hihg": 50}}]}, "option_not_allowed"),
        ({"rewards": [{"name": "sales", "options": {"weights": {"../x": 1}}}]}, "invalid_option"),
        ({"rewards": [{"name": "sales", "options": {"expected_responses": ["x"]}}]}, "option_not_allowed"),
        ({"expected_responses": ["Yes."]}, "invalid_request"),
        (
            {"prompts": [], "environment": {"name": "support_desk", "options": {"topics": ["x"]}}},
            "option_not_allowed",
        ),
    ],
)
def test_a_request_may_choose_only_what_is_registered_and_harmless(plain, fields, code):
    with pytest.raises(ApiError) as told:
        plain.make(ask(**fields))

    assert (told.value.status, told.value.code) == (422, code), told.value.message
    assert told.value.param


def test_numbers_by_name_are_allowed(plain, registry, tmp_path):
    weights = {"discovery": 0.5, "safety": 0.5, "empathy": 0.0}
    made = plain.make(ask(rewards=[{"name": "sales", "options": {"weights": weights}}]))

    assert check(resolve(load(made, tmp_path), registry)).problems == []


def test_an_agent_on_a_backend_that_cannot_be_trained_takes_no_jobs(registry):
    loaded = default_config("agent")
    config = loaded.config.model_copy(
        update={"backend": loaded.config.backend.model_copy(update={"name": "openai"})}
    )
    with pytest.raises(ApiError) as told:
        Plan(replace(loaded, config=config), registry).make(ask())

    assert (told.value.status, told.value.code) == (409, "not_trainable")


def test_making_a_plan_needs_no_plugins():
    Plan(default_config("agent"), Registry())


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"prompts": []}, "either prompts or an environment"),
        ({"environment": "support_desk"}, "either prompts or an environment"),
        ({"prompts": [" "]}, "prompts"),
        ({"prompts": ["x" * 8001]}, "8000"),
        ({"prompts": ["x"] * 1001}, "1000"),
        ({"num_iterations": 0}, "greater than or equal to 1"),
        ({"num_iterations": 10**9}, "less than or equal to 10000"),
        ({"held_out_prompts": ["Hello"]}, "1 of held_out_prompts stand in prompts too"),
        ({"prompts_per_iteration": 3}, "more than there are different prompts"),
        ({"evaluation_episodes": 4}, "give held_out_prompts"),
        ({"rewards": ["length", "length"]}, "listed twice"),
        ({"rewards": ["length"], "expected_responses": ["Yes."]}, "leave rewards out"),
        (
            {"prompts": [str(n) for n in range(64)], "prompts_per_iteration": 64, "group_size": 64},
            "1024 episodes",
        ),
        ({"prompts": [], "environment": "arithmetic", "customer_replies": ["x"]}, "of its own"),
        ({"strategy": "../../etc/passwd"}, "strategy"),
        ({"model": "/etc"}, "model"),
        ({"output": "/etc"}, "output"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ],
)
def test_requests_that_do_not_fit_are_refused(fields, complaint):
    with pytest.raises(ValidationError) as told:
        ask(**fields)

    assert complaint in str(told.value)


@pytest.fixture
def neural(registry):
    if "neural" not in registry.names("reward"):
        pytest.skip("the reward neural is not there yet")


def test_the_guides_request_trains_and_says_what_its_neural_reward_knows(plain, registry, neural, tmp_path):
    made = plain.make(TrainRequest(**GUIDE))
    loaded = load(made, tmp_path)

    assert [use.name for use in loaded.config.rewards][-1] == "neural"
    assert loaded.config.rewards[-1].options["unready"] == "neutral"
    assert "learnt from no feedback" in made.notes[0]
    assert check(resolve(loaded, registry)).problems == []
    assert plain.make(ask()).notes == []


def test_a_neural_reward_that_has_learnt_is_the_servers(agent_yaml, registry, neural):
    text = agent_yaml.read_text()
    learnt = "rewards: [{name: neural, options: {path: learnt.npz}}, "
    agent_yaml.write_text(text.replace("rewards: [", learnt))
    plan = Plan(load_config(agent_yaml), registry)

    reward = plan.values(ask(use_neural_rewards=True))["rewards"][-1]

    assert (reward["name"], reward["options"]["path"]) == ("neural", "learnt.npz")
    assert reward["options"]["unready"] == "fail"
    assert plan.make(ask(use_neural_rewards=True)).notes == []
