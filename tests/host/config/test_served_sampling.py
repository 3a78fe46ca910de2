"""What is measured is what is served, unless agent.yaml says otherwise."""

from __future__ import annotations

import pytest

from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.config.resolved import dump_resolved
from grpo_host.config.schema import ServingSamplingConfig
from grpo_host.config.served_sampling import filled_up, sampling_of_run, served_sampling
from grpo_sdk.errors import ConfigError


def test_an_agent_is_served_as_it_is_measured(agent_yaml):
    served = served_sampling(load_config(agent_yaml, ["sampling={max_tokens: 40, top_k: 3}"]).config)
    assert (served.temperature, served.max_tokens, served.top_k) == (0.0, 40, 3)
    served = served_sampling(load_config(agent_yaml, ["evaluation.temperature=0.3"]).config)
    assert served.temperature == 0.3


def test_what_is_said_for_serving_comes_first(agent_yaml):
    loaded = load_config(agent_yaml, ["serving.sampling={temperature: 0.5, max_tokens: 200}"])
    served = served_sampling(loaded.config)
    assert (served.temperature, served.max_tokens, served.top_p) == (0.5, 200, 1.0)


def test_a_resolved_file_says_how_the_agent_is_served(agent_yaml, registry):
    text = dump_resolved(resolve(load_config(agent_yaml, ["sampling.max_tokens=40"]), registry))
    block = text.split("serving:\n")[1]
    assert "  sampling:\n    max_tokens: 40\n    temperature: 0.0\n    top_p: 1.0\n    top_k: 0\n" in block


def test_a_run_is_known_by_its_own_agent_yaml(agent_yaml, registry, tmp_path):
    loaded = load_config(agent_yaml, ["evaluation.temperature=0.2", "sampling.max_tokens=31"])
    run = tmp_path / "run.yaml"
    run.write_text(dump_resolved(resolve(loaded, registry)))
    assert sampling_of_run(run) == served_sampling(loaded.config)


def test_a_run_from_before_it_could_be_said_is_read_with_its_evaluation(tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text(
        "name: old\nrewards: [{name: judged, options: {key: '${NOT_SET_HERE}'}}]\n"
        "sampling: {max_tokens: 48, temperature: 1.0}\nevaluation: {temperature: 0.1}\nserving: {port: 8001}\n"
    )
    found = sampling_of_run(run)
    assert (found.temperature, found.max_tokens) == (0.1, 48)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sampling: {max_tokens: 0}\n", "run.yaml: sampling.max_tokens: "),
        (
            "evaluation: {temperature: '${NOT_SET_HERE}'}\n",
            "run.yaml: evaluation.temperature: the environment",
        ),
    ],
)
def test_a_run_that_cannot_be_read_is_named_with_the_place(tmp_path, text, said):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        sampling_of_run(tmp_path / "run.yaml")
    assert said in str(caught.value)


def test_what_is_not_said_is_filled_up(agent_yaml):
    rest = load_config(agent_yaml).config.sampling
    assert filled_up(ServingSamplingConfig(), rest) == rest
