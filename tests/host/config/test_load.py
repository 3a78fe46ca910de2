"""From agent.yaml to a typed configuration, and what is said where it is wrong."""

from __future__ import annotations

import time

import pytest

from grpo_host.config.load import load_config
from grpo_host.config.overrides import Override
from grpo_host.config.problems import InvalidConfigError
from grpo_sdk import ConfigError

MINIMAL = """\
name: desk
model: smollm2-135m
environment: support_desk
rewards: [empathy]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes agent.yaml into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        (tmp_path / "agent.yaml").write_text(text)
        return "agent.yaml"

    return write


def errors(path: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value).splitlines()


def test_names_alone_stand_for_sections(write):
    config = load_config(write(MINIMAL)).config
    assert config.model.name == "smollm2-135m"
    assert config.backend.name == "vllm"
    assert config.environment.options == {}
    assert (config.rewards[0].name, config.rewards[0].weight) == ("empathy", 1.0)


def test_everything_of_the_agreed_shape_is_accepted(write):
    text = """\
name: support-desk
seed: 7
model: {name: smollm2-135m, dtype: float32, context: 512, adapter: null}
backend: {name: vllm, options: {seed: 1}}
agent:
  strategy: {name: tutor, options: {}}
  system_prompt: Be kind.
  tools: [calculator, {name: knowledge_base, options: {path: docs}}]
  limits: {turns: 3, turn_seconds: 5, episode_seconds: 60, tool_seconds: 1, tool_output_chars: 10}
environment: {name: support_desk, options: {}}
rewards:
  - {name: empathy, weight: 0.4, seconds: 30.0, options: {}}
sampling: {max_tokens: 64, temperature: 1.0, top_p: 1.0, top_k: 0}
rollouts: {concurrency: 16}
training:
  steps: 2
  tasks_per_step: 1
  group_size: 4
  learning_rate: 3.0e-4
  lora: {r: 8, alpha: 16, dropout: 0.1, target_modules: [q_proj, v_proj]}
  beta: 0.01
  epsilon: 0.1
  scale_rewards: batch
  importance_sampling: none
  importance_sampling_cap: 3.0
  max_grad_norm: 0.5
  micro_batch: 4
  save_every: 1
  warm_start: {epochs: 1, learning_rate: 1.0e-4, batch: 2, max_demonstrations: 5}
  report_to: [tensorboard]
evaluation: {episodes: 8, split: held_out, temperature: 0.0}
output: out
"""
    config = load_config(write(text)).config
    assert config.agent.strategy.name == "tutor"
    assert config.agent.tools[1].options == {"path": "docs"}
    assert config.training.lora.target_modules == ["q_proj", "v_proj"]
    assert config.training.warm_start.max_demonstrations == 5


def test_a_missing_file_is_an_error(write):
    assert errors("agnt.yaml") == ["agnt.yaml: no such file. Give the path of an agent.yaml"]


def test_a_directory_is_an_error(tmp_path):
    assert errors(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "agent.yaml").write_bytes(b"\xff\xfe\xfd")
    [line] = errors(tmp_path / "agent.yaml")
    assert "agent.yaml: cannot be read: 'utf-8' codec can't decode" in line


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_an_empty_file_is_an_error(write, text):
    assert errors(write(text)) == ["agent.yaml: the file is empty. Begin with name:, model: and environment:"]


def test_malformed_yaml_is_an_error_with_its_line(write):
    [line] = errors(write("name: desk\nrewards: [empathy\nmodel: x\n"))
    assert line.startswith("agent.yaml:3: not valid YAML: ")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (
            "model: {name: ${MODEL:-x}, context: 512}",
            'Put quotes around what has ${…} in it, as in {name: "${MODEL}"}',
        ),
        ("model:\n\tname: x", "Indent with spaces, not with tabs"),
        ("model: {name: x", "Look there, and at the line before, for a missing quote, colon or bracket"),
    ],
)
def test_malformed_yaml_comes_with_the_likeliest_cause(write, line, hint):
    [said] = errors(write(f"name: desk\n{line}\n"))
    assert said.endswith(f". {hint}")


def test_aliases_of_aliases_are_not_followed_for_ever(write):
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    began = time.thread_time()
    [said] = errors(write("\n".join(["a0: &a0 [x, x, x]", *levels]) + "\n"))
    assert said == "agent.yaml: more than 100,000 settings. Use fewer aliases (*name)"
    assert time.thread_time() - began < 30


def test_characters_that_yaml_forbids_are_an_error(write):
    [line] = errors(write("name: \x01\n"))
    assert line.startswith("agent.yaml: not valid YAML: ")


def test_a_second_document_is_an_error(write):
    [line] = errors(write(f"{MINIMAL}---\nname: other\n"))
    assert line.startswith("agent.yaml:5: not valid YAML: ")


def test_a_duplicate_key_is_an_error_with_its_line(write):
    assert errors(write(f"{MINIMAL}seed: 1\nname: other\n")) == [
        'agent.yaml:6: the key "name" stands here a second time. Remove one of them'
    ]


def test_a_list_at_the_top_is_an_error(write):
    assert errors(write("- name: desk\n")) == [
        "agent.yaml:1: give a mapping of keys to values. Begin with name: my-agent"
    ]


def test_a_key_that_is_no_text_is_an_error(write):
    assert errors(write(f"{MINIMAL}agent:\n  8: turns\n")) == [
        'agent.yaml:6: agent: the key 8 is no text. Write "8"'
    ]


@pytest.mark.parametrize("value", ["2026-11-22", "!secret x", "!!python/object:os.system {}"])
def test_a_value_beyond_json_is_an_error(write, value):
    [line] = errors(write(f"{MINIMAL}output: {value}\n"))
    assert line == (
        "agent.yaml:5: output: give a text, a number, true, false, a list or a mapping; "
        "put quotes around a text"
    )


@pytest.mark.slow
def test_bottomless_yaml_is_an_error(write):
    assert errors(write(f"name: {'[' * 1500}")) == ["agent.yaml: nested too deeply"]


def test_anchors_and_merges_are_followed(write):
    text = MINIMAL.replace("[empathy]", "[&r {name: a, weight: 2}, {<<: *r, name: b}]")
    assert [use.weight for use in load_config(write(text)).config.rewards] == [2, 2]


def test_a_near_miss_of_a_key_is_an_error_with_a_suggestion(write):
    assert errors(write(f"{MINIMAL}training:\n  stpes: 3\n")) == [
        'agent.yaml:6: training.stpes: unknown key "stpes". Did you mean "steps"?'
    ]


def test_a_key_of_another_section_is_pointed_out(write):
    assert errors(write(f"{MINIMAL}max_tokens: 5\n")) == [
        'agent.yaml:5: max_tokens: unknown key "max_tokens" here. Did you mean "sampling.max_tokens"?'
    ]


def test_a_near_miss_of_a_key_of_another_section_is_pointed_out(write):
    assert errors(write(f"{MINIMAL}groupsize: 4\n")) == [
        'agent.yaml:5: groupsize: unknown key "groupsize". Did you mean "training.group_size"?'
    ]


def test_a_key_unlike_any_is_an_error_with_the_list(write):
    assert errors(write(f"{MINIMAL}rollouts:\n  xyzzy: 4\n")) == [
        'agent.yaml:6: rollouts.xyzzy: unknown key "xyzzy". The keys here are: concurrency, '
        "max_consecutive_failures"
    ]


def test_missing_keys_are_all_said(write):
    assert errors(write("seed: 1\n")) == [
        "agent.yaml:1: name: this key is missing",
        "agent.yaml:1: model: this key is missing",
        "agent.yaml:1: environment: this key is missing",
        "agent.yaml:1: rewards: this key is missing",
    ]


def test_errors_stand_in_the_order_of_their_lines(write):
    text = """\
name: Desk!
model: {name: m, dtype: int8}
environment: {nme: e}
rewards:
  - empathy
  - {name: length, weight: heavy}
training: {group_size: 1, lora: {target_modules: 3}}
"""
    assert errors(write(text)) == [
        "agent.yaml:1: name: give a name of small letters, digits and dashes: it names a folder",
        "agent.yaml:2: model.dtype: give one of: 'bfloat16', 'float32' or 'float16'",
        "agent.yaml:3: environment.name: this key is missing",
        'agent.yaml:3: environment.nme: unknown key "nme". Did you mean "name"?',
        "agent.yaml:6: rewards[1].weight: give a number",
        "agent.yaml:7: training.group_size: give at least 2",
        "agent.yaml:7: training.lora.target_modules: give a text, or give a list",
    ]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rewards", "[]", "give at least 1, not 0"),
        ("rewards", "[3]", "[0]: give a mapping of keys to values"),
        ("rewards", "['']", "[0].name: give a text that is not empty"),
        ("seed", ".inf", "give a finite number"),
        ("sampling.temperature", ".nan", "give a finite number"),
        ("sampling.top_p", "1.5", "give at most 1.0"),
        ("training.epsilon", "0", "give more than 0.0"),
        ("training.lora.dropout", "1", "give less than 1.0"),
        ("name", "[a]", "give a text"),
        ("agent.tools", "calculator", "give a list"),
    ],
)
def test_a_wrong_value_is_said_in_plain_words(write, key, value, said):
    below, _, message = said.rpartition(": ") if said.startswith("[") else ("", "", said)
    place = f"--set {key}: {key}{below}" if below else f"--set {key}"
    assert errors(write(MINIMAL), f"{key}={value}") == [f"{place}: {message}"]


@pytest.mark.parametrize(
    "setting",
    [
        "seed: true",
        "training: {steps: false}",
        "training: {warm_start: {max_demonstrations: true}}",
        "sampling: {temperature: true}",
        "model: {name: x, stop: [2, true]}",
        "serving: {sampling: {top_p: true}}",
    ],
)
def test_true_and_false_are_no_numbers(write, setting):
    rest = MINIMAL if not setting.startswith("model") else MINIMAL.replace("model: smollm2-135m\n", "")
    (line,) = errors(write(f"{rest}{setting}\n"))
    assert line.startswith("agent.yaml:")
    assert line.endswith(": give a number, not true or false")


def test_a_number_may_begin_with_zeros_and_be_a_text(write):
    training = load_config(write(MINIMAL + 'training: {steps: 010, save_every: "7"}\n')).config.training
    assert (training.steps, training.save_every) == (10, 7)


def test_values_are_never_repeated_in_errors(write, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    [line] = errors(write(f"{MINIMAL}seed: ${{SECRET}}\n"))
    assert line == "agent.yaml:5: seed: give a whole number"


def test_an_override_changes_a_value(write):
    loaded = load_config(
        write(MINIMAL), ["training.steps=5", "rewards[0].weight=0.2", "agent.tools=[a, {name: b}]"]
    )
    assert loaded.config.training.steps == 5
    assert loaded.config.rewards[0].weight == 0.2
    assert loaded.config.rewards[0].name == "empathy"
    assert [tool.name for tool in loaded.config.agent.tools] == ["a", "b"]


def test_an_override_goes_into_what_is_null(write):
    loaded = load_config(write(MINIMAL), ["training.warm_start.epochs=3"])
    assert loaded.config.training.warm_start.epochs == 3


def test_the_last_override_wins(write):
    config = load_config(write(MINIMAL), ["seed=1", "seed=2", "backend.options.a=1"]).config
    assert config.backend.name == "vllm"
    assert (config.seed, config.backend.options) == (2, {"a": 1})


def test_a_value_of_an_override_may_hold_an_equals_sign(write):
    config = load_config(write(MINIMAL), ["agent.system_prompt=a=b"]).config
    assert config.agent.system_prompt == "a=b"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.steps", "give a value, as in --set training.steps=5"),
        ("training..steps=1", "not a key. Write it like rewards[0].weight"),
        ("[0]=1", "not a key. Write it like rewards[0].weight"),
        ("=1", "not a key. Write it like rewards[0].weight"),
        ("rewards[x]=1", "not a key. Write it like rewards[0].weight"),
        ("agent.tools=[a", "the value is not valid YAML. Put quotes around a text"),
        (
            "rewards[1].weight=2",
            "rewards has 1 entries, counted from 0. Set the whole list to add one",
        ),
        (
            "agent.tools[0]=x",
            "agent.tools has 0 entries, counted from 0. Set the whole list to add one",
        ),
        ("rewards.name=x", "rewards is no mapping"),
        ("model[0]=x", "model is no list"),
    ],
)
def test_an_override_that_cannot_be_is_an_error(write, override, said):
    label = override.partition("=")[0]
    assert errors(write(MINIMAL), override) == [f"--set {label}: {said}"]


def test_a_wrong_override_is_named_by_what_the_user_wrote(write):
    write(MINIMAL)
    assert errors("agent.yaml", "rewards[0].weight=x") == ["--set rewards[0].weight: give a number"]
    assert errors("agent.yaml", "rewards[0]={nme: x}") == [
        "--set rewards[0]: rewards[0].name: this key is missing",
        '--set rewards[0]: rewards[0].nme: unknown key "nme". Did you mean "name"?',
    ]
    with pytest.raises(InvalidConfigError, match=r"^--episodes: give at least 0$"):
        load_config("agent.yaml", [Override(("evaluation", "episodes"), -1, "--episodes")])


def test_a_setting_knows_where_it_stands(write):
    loaded = load_config(write(MINIMAL), ["seed=1", "training.lora.r=4"])
    assert loaded.where("rewards", 0, "name") == "agent.yaml:4: rewards[0].name"
    assert loaded.where("rollouts", "concurrency") == "agent.yaml:1: rollouts.concurrency"
    assert loaded.where("seed") == "--set seed"
    assert loaded.where("training", "lora") == "--set training.lora.r: training.lora"


def test_an_environment_variable_is_filled_in(write, monkeypatch):
    monkeypatch.setenv("STEPS", "7")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOWHERE", raising=False)
    text = (
        f"{MINIMAL}training: {{steps: '${{STEPS}}'}}\n"
        "output: ${EMPTY:-runs}/${NOWHERE:-a b}\n"
        "agent: {system_prompt: 'not a $${variable}, ${EMPTY}'}\n"
    )
    config = load_config(write(text), ["rollouts.concurrency=${STEPS}"]).config
    assert config.training.steps == 7
    assert config.output == "runs/a b"
    assert config.agent.system_prompt == "not a ${variable}, "
    assert config.rollouts.concurrency == 7


def test_an_environment_variable_that_is_not_set_is_an_error(write, monkeypatch):
    monkeypatch.delenv("API_KEY", raising=False)
    text = f"{MINIMAL}backend:\n  name: litellm\n  options: {{api_key: '${{API_KEY}}'}}\n"
    assert errors(write(text)) == [
        "agent.yaml:7: backend.options.api_key: the environment variable API_KEY is not set. "
        "Set it, or give a default: ${API_KEY:-default}"
    ]


def test_a_malformed_reference_is_an_error(write):
    assert errors(write(f"{MINIMAL}output: 'runs/${{1}}'\n")) == [
        "agent.yaml:5: output: write ${NAME}, or $${ for the characters ${"
    ]


def test_secrets_are_not_in_the_repr(write, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    loaded = load_config(write(f"{MINIMAL}output: ${{SECRET}}\n"))
    assert "hunter2" not in repr(loaded)
