"""What a check finds without a model."""

from __future__ import annotations

import importlib.util
import json
import re
import warnings

import pytest

from grpo_host.checks.check import check
from grpo_host.config import backend_checks
from grpo_host.config.load import load_config
from grpo_host.config.overrides import Override
from grpo_host.config.problems import InvalidConfigError
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins

pytestmark = pytest.mark.torch  # each agent is to be trained


@pytest.fixture
def uninstall(monkeypatch):
    """Makes modules look as if they were not installed."""

    def uninstall(*modules: str) -> None:
        def find_spec(name: str):
            return None if name in modules else importlib.util.find_spec(name)

        monkeypatch.setattr(backend_checks, "find_spec", find_spec)

    return uninstall


def test_a_good_agent_has_no_problems(report):
    good = report("environment.options.tools=true")
    assert good.problems == []
    assert good.tasks == {"train": 8, "held_out": 40}
    assert good.tools == ["lookup"]
    assert good.raise_for_problems() is good


def test_problems_are_raised_together_in_the_order_of_lines(report):
    found = report("training.steps=1", "training.report_to=[trackoi]", "environment.options.train=1")
    with pytest.raises(InvalidConfigError) as error:
        found.raise_for_problems()
    assert error.value.problems == found.problems
    assert str(error.value) == "\n".join(map(str, found.problems))
    assert len(found.problems) == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("backend=engin", '--set backend: backend.name: no backend "engin". Did you mean "engine"?'),
        ("environment=shp", 'environment.name: no environment "shp". Did you mean "shop"?'),
        ("rewards[0]=knd", 'rewards[0].name: no reward "knd". Did you mean "kind"?'),
        ("agent.tools=[dic]", 'agent.tools[0].name: no tool "dic". Did you mean "dice"?'),
        ("agent.strategy=clark", 'agent.strategy.name: no strategy "clark". Did you mean "clerk"?'),
    ],
)
def test_a_plugin_that_is_not_there_is_a_problem_at_its_place(problems, override, said):
    [line] = problems(override)
    assert said in line
    assert line.endswith("Run grpo-host plugins to list them.")


def test_the_place_of_a_plugin_is_its_line(problems, agent_yaml, tmp_path):
    text = (tmp_path / agent_yaml).read_text()
    (tmp_path / agent_yaml).write_text(text.replace("- kind", "- kidn"))
    assert problems() == [
        'agent.yaml:6: rewards[0].name: no reward "kidn". Did you mean "kind"? '
        "Run grpo-host plugins to list them."
    ]


def test_options_are_checked_at_their_place(problems):
    assert problems("environment.options.train=many", "rewards[0].options.wrd=x") == [
        "--set environment.options.train: give a whole number",
        '--set rewards[0].options.wrd: unknown option "wrd". Did you mean "word"?',
    ]


def test_a_reward_that_cannot_be_made_is_a_problem(problems):
    [said] = problems("rewards=[{name: strict, options: {low: 5}}]")
    assert re.fullmatch(
        r'--set rewards: rewards\[0\]: reward "strict" of local \(entry point "shop"\) '
        r"could not be made: ValueError: low is above high \(config/conftest\.py:\d+\)",
        said,
    )


def test_a_factory_that_makes_something_else_is_a_problem(problems):
    made = 'of local (entry point "shop") made float, not'
    assert problems("rewards=[number]") == [
        f'--set rewards: rewards[0]: reward "number" {made} a Reward or a GroupReward'
    ]
    assert problems("agent.strategy=number") == [f'--set agent.strategy: strategy "number" {made} a Strategy']
    assert problems("agent.tools=[number]") == [
        '--set agent.tools: agent.tools[0]: tool "number" of local (entry point "shop") '
        "is no tool: a tool is a BaseTool, a retriever or a function, not float"
    ]
    assert problems("environment=nothing") == [
        '--set environment: it could not be tried: environment "nothing" of local '
        '(entry point "shop") made int, not an Environment'
    ]


def judged(judge: str) -> str:
    return f"rewards=[{{name: judged, options: {{judge: {judge}}}}}]"


@pytest.mark.parametrize("judge", ["{name: remote, model: x/y}", "{name: engine, model: ./model}"])
def test_a_judge_chats_or_speaks_tokens(problems, judge):
    assert problems(judged(judge)) == []


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("remote", "options.judge.model: this option is missing"),
        ("3", "options.judge: give a mapping of keys to values"),
        ("{name: remote, modle: x}", 'options.judge.modle: unknown option "modle". Did you mean "model"?'),
        (
            "{name: remote, model: {name: x, contxt: 5}}",
            'judge.model.contxt: unknown option "contxt". Did you mean "context"?',
        ),
        ("{name: remot, model: x}", 'options.judge.name: no backend "remot". Did you mean "remote"?'),
        ("{name: remote, model: x, options: {ul: x}}", 'judge.options.ul: unknown option "ul"'),
        ("{name: remote, model: x, options: {url: x}}", "url must begin with http"),
        ("{name: remote, model: {name: x, dtype: float32}}", "judge.model.dtype: the backend"),
        ("{name: mute, model: x}", 'judge.name: the backend "mute" can neither chat nor speak token ids'),
        ("{name: unready, model: x}", "judge.name: unready needs the package an_engine_that_is_not_there"),
        ("{name: engine, model: nothing}", 'options.judge.model.name: no model "nothing"'),
    ],
)
def test_a_judge_that_cannot_be_had_is_a_problem_at_its_place(problems, judge, said):
    lines = problems(judged(judge))
    assert any(said in line for line in lines), lines


def test_a_judge_is_no_option_where_a_reward_asks_for_none(problems):
    [line] = problems("rewards=[{name: kind, options: {judge: {name: remote, model: x}}}]")
    assert 'unknown option "judge"' in line


def test_a_reward_that_is_listed_twice_is_a_problem(problems):
    assert problems("rewards=[kind, kind]") == [
        '--set rewards: rewards[1].name: the reward "kind" is listed twice. '
        "Leave one out, or give it another name with as:"
    ]


def test_rewards_without_weight_are_a_problem_of_training(problems):
    assert problems("rewards[0].weight=0", purpose="eval") == []
    assert problems("rewards[0].weight=0") == [
        "agent.yaml:5: rewards: all weights are 0: there is nothing to learn. Raise one"
    ]


def test_an_answer_must_leave_room_for_a_prompt(problems):
    assert problems("model.context=64") == [
        "agent.yaml:1: sampling.max_tokens: 64 tokens an answer leave no room for a prompt "
        "in a context of 64. Raise model.context or lower this"
    ]


def test_training_needs_samples_of_the_whole_distribution(problems):
    said = "training needs samples of the whole distribution: the policy gradient is biased where"
    assert problems("sampling.top_p=0.9", "sampling.top_k=5") == [
        f"--set sampling.top_p: {said} top_p cuts it. Set it to 1",
        f"--set sampling.top_k: {said} top_k cuts it. Set it to 0",
    ]
    assert problems("sampling.top_p=0.9", "sampling.top_k=5", purpose="rollout") == []


def test_training_needs_a_temperature(problems):
    assert problems("sampling.temperature=0") == [
        "--set sampling.temperature: at 0 all episodes of a group are the same and nothing is "
        "learnt. Train at 1.0"
    ]


def test_tasks_of_a_step_must_divide_into_processes(problems):
    assert problems("training.world_size=3") == [
        "--set training.world_size: 4 tasks a step do not divide into 3 processes. "
        "Set tasks_per_step to a multiple of it"
    ]
    assert problems("training.world_size=2") == []


def test_a_backend_that_cannot_be_one_of_several_is_refused(problems):
    assert problems("backend=alone") == []
    assert problems("backend=alone", "training.world_size=2") == [
        '--set backend: backend.name: the backend "alone" does not work in one of several ranks. Use '
        "vllm_server or transformers there, or set training.world_size to 1"
    ]


def test_a_backend_that_takes_adapters_alone_trains_no_whole_model(problems):
    assert problems("backend.name=servers") == []
    assert problems("backend.name=servers", "training.lora=null") == [
        '--set training.lora: the backend "servers" takes new weights as LoRA adapters alone. Leave '
        "training.lora out, or train the whole model with another backend"
    ]


def test_a_model_is_shared_by_processes_and_as_a_file_says(problems, tmp_path):
    path = tmp_path / "fsdp.yaml"
    assert problems("backend.name=servers", f"training.accelerate={path}") == [
        f"--set training.accelerate: there is no file {path}. Make one with accelerate config",
        "--set training.accelerate: one process has nothing to share the model with. Start more (--nproc, "
        "training.world_size), or leave it out",
    ]
    two = ("backend.name=servers", f"training.accelerate={path}", "training.world_size=2")
    path.write_text("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}\n")
    assert problems(*two) == [
        "--set training.accelerate: the accelerate configuration asks for FSDP 1, which torch has replaced. "
        "Say fsdp_version: 2 in its fsdp_config"
    ]
    path.write_text("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}\n")
    assert problems(*two) == []
    assert problems(*two, "training.optimizer=adafactor") == [
        "--set training.optimizer: adafactor cannot be used where processes share the model. Take "
        "adamw_torch_fused, or leave training.accelerate out"
    ]
    found = problems(*two, "training.load_in=4bit")
    assert [line for line in found if "shared" in line] == [
        "--set training.load_in: weights in 4bit cannot be shared between processes. Leave it out, or "
        "training.accelerate"
    ]


def test_sampling_ahead_needs_a_backend_for_it_and_a_correction(problems):
    assert problems("backend.name=servers", "training.max_staleness=1") == []
    assert problems("training.max_staleness=1") == [
        '--set training.max_staleness: the backend "engine" cannot sample while it is given new weights. Use '
        "vllm_server, or set it to 0"
    ]
    none = ("training.max_staleness=1", "training.importance_sampling=none")
    assert problems("backend.name=servers", *none) == [
        "--set training.importance_sampling: what older weights sampled has to be corrected for: with "
        "max_staleness, choose another"
    ]


def test_sampling_ahead_is_not_the_same_twice(problems):
    found = problems("backend.name=servers", "training.max_staleness=1", "deterministic=true")
    assert [line for line in found if "max_staleness" in line] == [
        "--set training.max_staleness: a run that samples ahead is not the same twice: what is sampled while "
        "the trainer works depends on how fast it is. Set it to 0, or deterministic to false"
    ]


def test_early_stopping_needs_something_to_measure_with(problems):
    assert problems("training.early_stopping={}", "evaluation.episodes=0") == [
        "--set training.early_stopping: there is nothing to measure with: evaluation.episodes is 0. Raise it"
    ]
    assert problems("training.early_stopping={patience: 5}") == []


ONE_UPDATE = (
    "it clips the ratio between the policy now and before the batch's first update, and a batch has one "
    "update: the ratio is 1, and this changes nothing. Leave it at {0}, or give iterations or minibatches"
)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["epsilon=0.1"], "epsilon: " + ONE_UPDATE.format("0.2")),
        (["epsilon_high=0.3"], "epsilon_high: " + ONE_UPDATE.format("null")),
        (
            ["loss=cispo", "iterations=2", "epsilon=0.1"],
            "epsilon: cispo clips above only, at epsilon_high. Leave it at 0.2",
        ),
        (
            ["loss=cispo", "iterations=2", "epsilon_high=0.28"],
            "epsilon_high: for cispo it is the largest ratio, and no ratio would be above 0.28. Give more "
            "than 1, such as 5",
        ),
        (
            ["multi_objective_aggregation=normalize_then_sum", "scale_rewards=none"],
            "scale_rewards: with normalize_then_sum each reward is divided by its own deviation in its group, "
            "and this changes nothing. Leave it at group",
        ),
        (["loss=cispo", "epsilon_high=4"], "epsilon_high: " + ONE_UPDATE.format("null")),
        (
            ["reference=base"],
            "reference: beta is 0, so there is no penalty for leaving it: this changes nothing. Leave it at "
            "start, or turn that on",
        ),
        (
            ["overlong_penalty=0.5"],
            "overlong_penalty: overlong_buffer is 0, so no reply is overlong: this changes nothing. Leave it "
            "at 1.0, or turn that on",
        ),
        (
            ["importance_sampling=none", "importance_sampling_cap=3"],
            "importance_sampling_cap: importance_sampling is none, so there is no ratio to cap: this changes "
            "nothing. Leave it at 2.0, or turn that on",
        ),
        (["optimizer=sgd", "adam_beta1=0.8"], "adam_beta1: sgd has no such number. Leave it at 0.9"),
        (["minibatches=3"], "minibatches: 32 episodes of a process do not divide into 3. Give a divisor"),
        (
            ["overlong_buffer=65"],
            "overlong_buffer: a reply has at most 64 tokens (sampling.max_tokens). Give fewer",
        ),
    ],
)
def test_what_the_loss_cannot_honour_is_refused(problems, settings, said):
    assert problems(*(f"training.{setting}" for setting in settings)) == [f"--set training.{said}"]


def test_settings_of_the_loss_that_belong_together_are_taken(problems):
    assert problems("training.iterations=2", "training.epsilon=0.1", "training.epsilon_high=0.28") == []
    assert problems("training.loss=cispo", "training.epsilon_high=4", "training.iterations=2") == []
    assert problems("training.minibatches=4", "training.optimizer=sgd", "training.overlong_buffer=16") == []
    assert problems("training.lora=null", "training.beta=0.1") == []


def test_the_penalty_for_long_replies_has_a_name_of_its_own(problems):
    [line] = problems("training.overlong_buffer=8", "rewards=[{name: kind, as: overlong}]")
    assert line == (
        "--set training.overlong_buffer: its penalty is called overlong, as a reward of yours is. "
        "Give that another name with as:"
    )


def test_an_optimizer_whose_package_is_not_there_is_refused(problems, monkeypatch):
    monkeypatch.setattr("grpo_host.config.training_checks.find_spec", lambda name: None)
    [line] = problems("training.optimizer=adamw_8bit")
    assert "training.optimizer: adamw_8bit needs the package bitsandbytes: pip install" in line


def test_base_weights_of_few_bits_are_refused_where_they_cannot_be_or_cannot_be_sampled_from(
    problems, monkeypatch
):
    monkeypatch.setattr("grpo_host.config.training_checks.find_spec", lambda name: None)
    said = problems("training.load_in=4bit", "training.lora=null")
    assert any(
        "training.load_in: weights of so few bits cannot be trained. Train an adapter" in s for s in said
    )
    assert any("training.load_in: 4bit needs the package bitsandbytes: pip install" in s for s in said)
    assert any('training.load_in: the backend "engine" is given merged weights' in s for s in said)


def test_a_backend_that_cannot_promise_to_repeat_exactly_is_refused(problems):
    assert problems("deterministic=true") == [
        '--set deterministic: the backend "engine" cannot promise it: it has no option deterministic. Use '
        "transformers or vllm, or set it to false"
    ]


def test_the_output_must_be_a_directory(problems, tmp_path):
    (tmp_path / "file").write_text("")
    assert problems("output=file/runs") == [f"--set output: {tmp_path / 'file'} is a file. Give a directory"]


def test_the_output_must_be_writable(problems, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    [line] = [line for line in problems() if "output" in line]
    assert line == f"agent.yaml:7: output: {tmp_path} is not writable. Give another directory"


def test_an_environment_that_raises_is_a_problem(problems):
    (problem,) = problems("environment.options.fails=no shelf")
    said = r"agent\.yaml:4: environment: it could not be tried: reset\(\): RuntimeError: no shelf \(config/conftest\.py:\d+\)"
    assert re.fullmatch(said, problem)


@pytest.mark.parametrize("how", ["politely", "rudely"])
def test_an_environment_that_is_slow_is_told_from_one_that_fails(problems, how):
    [said] = problems(f"environment.options.hangs={how}", "agent.limits.probe_seconds=0.3")
    place = r" \(at config/conftest\.py:\d+\)" if how == "rudely" else ""
    assert re.fullmatch(
        r"agent\.yaml:4: environment: it could not be tried: no answer within 0\.3 s from reset\(\)"
        rf"{place}\. Nothing failed: if it is slow and not stuck, set agent\.limits\.probe_seconds higher",
        said,
    )


def test_the_environment_is_closed_after_the_check(report, registry):
    shop = registry.get("environment", "shop").factory
    before = shop.closed.count("")
    report("environment.options.fails=no shelf")
    report()
    assert shop.closed.count("") == before + 2


def test_training_needs_train_tasks(problems):
    assert problems("environment.options.train=0") == [
        "agent.yaml:4: environment: it has no train tasks. Give it some by its options, or name another "
        "environment"
    ]
    assert problems("environment.options.train=0", purpose="eval") == []
    assert problems("environment.options.train=0", "environment.options.held_out=0", purpose="rollout") == [
        "agent.yaml:4: environment: it has no tasks in train or held_out"
    ]


def test_a_step_needs_as_many_train_tasks_as_it_plays(problems):
    assert problems("environment.options.train=3") == [
        "agent.yaml:1: training.tasks_per_step: a step plays 4 tasks, and the environment has 3 "
        "to train on. Set it to 3 or less"
    ]


def test_task_ids_must_be_unique(problems):
    assert problems("environment.options.twice=true") == [
        'agent.yaml:4: environment: two train tasks have the id "train-0"; each needs its own'
    ]


def test_splits_must_be_disjoint(problems):
    assert problems("environment.options.shared=true") == [
        'agent.yaml:4: environment: train and held_out share 8 tasks, such as "train-0": '
        "an evaluation would measure what was learnt by heart"
    ]


def test_an_evaluation_needs_tasks(problems):
    assert problems("evaluation.split=test") == [
        "--set evaluation.split: the environment has no test tasks. It has: train, held_out. "
        "Set evaluation.episodes to 0 to train without an evaluation"
    ]
    assert problems("environment.options.held_out=5") == [
        "agent.yaml:1: evaluation.episodes: 32 episodes need as many tasks, and the environment "
        "has 5 in held_out. Set it to 5 or less"
    ]
    assert problems("environment.options.held_out=0", "evaluation.episodes=0") == []


def test_a_warm_start_needs_demonstrations(problems):
    assert problems("training.warm_start={}", "environment.options.demonstrations=2") == []
    assert problems("training.warm_start={}") == [
        '--set training.warm_start: the environment "shop" has no demonstrations. Leave warm_start out, '
        "or give it dialogues"
    ]


def test_a_least_reward_of_demonstrations_that_have_none_is_refused(problems):
    asked = ("training.warm_start.min_reward=0.5", "environment.options.demonstrations=2")
    assert problems(*asked) == [
        "--set training.warm_start.min_reward: an environment's demonstrations have no reward. Name a file of "
        "episodes in dialogues, or leave it out"
    ]


def test_dialogues_of_a_warm_start_show_what_to_say(problems, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "examples.jsonl"
    file.write_text('{"content": "Hi", "expected_response": "Hello"}\n')
    assert problems("training.warm_start.dialogues=examples.jsonl") == []
    assert problems(f"training.warm_start.dialogues={file}") == []
    where = "--set training.warm_start.dialogues"
    assert problems("training.warm_start.dialogues=no.jsonl")[0].startswith(
        f"{where}: {tmp_path}/no.jsonl: cannot read dialogues: No such file or directory."
    )
    file.write_text('{"content": "Hi", "expected_response": "Hello"}\n{"content": "Hi"')
    assert problems("training.warm_start.dialogues=examples.jsonl")[0].startswith(
        f"{where}: {file}:2: this line is no JSON"
    )
    file.write_text('{"content": "Hi"}\n')
    assert problems("training.warm_start.dialogues=examples.jsonl") == [
        f"{where}: {file}: none of its 1 dialogues shows what to answer. "
        "Give them an expected_response, or messages of an assistant"
    ]


def test_tools_with_one_name_are_a_problem(problems):
    assert problems("agent.tools=[lookup, dice, {name: lookup}]") == [
        "--set agent.tools: agent.tools[2]: this tool and agent.tools[0] are both called "
        '"lookup". Leave one of them out'
    ]
    assert problems("agent.tools=[lookup]", "environment.options.tools=true") == [
        "--set agent.tools: agent.tools[0]: this tool and one of the environment's are both "
        'called "lookup". Leave one of them out'
    ]


def test_a_tool_of_which_the_model_sees_only_the_name_is_a_warning(tmp_path):
    (tmp_path / "my.py").write_text("def price_of(item: str) -> str:\n    return item\n")
    agent = tmp_path / "agent.yaml"
    agent.write_text(
        "name: a\nmodel: scripted\nbackend: scripted\nenvironment: arithmetic\nrewards: [length]\n"
        "agent: {tools: [calculator, ./my.py:price_of]}\n"
    )
    registry = load_plugins()
    found = check(resolve(load_config(agent, registry=registry), registry), purpose="rollout")
    assert found.tools == ["calculator", "price_of"]
    assert [warning for warning in found.warnings if "description" in warning] == [
        'the tool "price_of" has no description: the model sees only its name. Write what it does as its '
        "function's docstring"
    ]


def test_a_strategys_tools_must_be_there(problems):
    assert problems("agent.strategy=clerk", "agent.tools=[lookup]") == []
    assert problems("agent.strategy=clerk", "environment.options.tools=true") == []
    assert problems("agent.strategy=clerk") == [
        '--set agent.strategy: the strategy "clerk" uses the tool "lookup", which is not there. '
        "Add it to agent.tools; the tools are: none"
    ]


def test_a_tool_that_the_strategy_does_not_use_is_a_problem(problems):
    assert problems("agent.strategy=clerk", "agent.tools=[lookup, dice]") == [
        '--set agent.tools: agent.tools[1]: the strategy "clerk" does not use the tool "dice". Leave it out'
    ]


def test_training_needs_a_trainable_backend(problems):
    assert problems("backend=remote", purpose="eval") == []
    assert problems("backend=remote") == [
        '--set backend: backend.name: the backend "remote" cannot be trained with: '
        "it has no logprobs, token_ids, weight_sync. Backends that have: alone, engine, servers"
    ]


def test_a_backend_must_speak(problems):
    assert problems("backend=mute", purpose="chat") == [
        '--set backend: backend.name: the backend "mute" can neither chat nor speak token ids'
    ]


def test_tools_need_a_backend_that_calls_them(problems):
    assert problems("backend=remote", "agent.tools=[dice]", purpose="eval") == [
        '--set backend: backend.name: the agent has tools (dice), and the backend "remote" '
        "cannot call any. Choose a backend with the capability tools or token_ids"
    ]


def test_an_adapter_needs_a_backend_that_loads_it(problems, tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert problems("model.adapter=lora") == []
    assert problems("model.adapter=lora", "backend=remote", purpose="eval") == [
        '--set model.adapter: the backend "remote" loads no adapters. '
        "Leave the adapter out, or serve it elsewhere"
    ]


def test_an_adapter_must_be_one(problems):
    assert problems("model.adapter=/no/lora") == [
        "--set model.adapter: /no/lora is no PEFT adapter: it holds no adapter_config.json of one. "
        "Give the adapter folder of a run"
    ]


def test_an_adapter_of_another_model_is_named(problems, tmp_path):
    (tmp_path / "lora").mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": "org/large"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    [said] = problems("model.adapter=lora")
    assert said.startswith(
        f"--set model.adapter: {tmp_path}/lora: the adapter belongs to the model org/large, not to ./model. Use the model"
    )
    settings["base_model_name_or_path"] = str(tmp_path / "model")
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    assert problems("model.adapter=lora") == []


def test_a_tokenizer_larger_than_the_embedding_is_a_problem(problems, tmp_path):
    (tmp_path / "model" / "config.json").write_text('{"vocab_size": 3}')
    (tmp_path / "model" / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 3}}}')
    said = (
        'agent.yaml:2: model.name: model "./model" cannot be had: its tokenizer has ids up to 3, and its '
        "embedding 3 rows"
    )
    assert any(line.startswith(said) for line in problems())


@pytest.fixture
def llama(tmp_path):
    """Gives the shop's agent a model whose modules are known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in ("torch", "transformers", "peft"):
            pytest.importorskip(module)
    config = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 1, "tie_word_embeddings": False}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))


@pytest.mark.model
@pytest.mark.parametrize("targets", ["[q_proj, v_proj]", '".*mlp.*_proj"', "all-linear"])
def test_modules_that_the_model_has_can_be_adapted(problems, llama, targets):
    assert problems(f"training.lora.target_modules={targets}", "model.context=128") == []


@pytest.mark.model
def test_modules_that_the_model_has_not_are_a_problem(problems, llama):
    [said] = problems("training.lora.target_modules=[query_key_value]", "model.context=128")
    assert said.startswith("--set training.lora.target_modules: Target modules {'query_key_value'} not found")
    assert said.endswith(
        "The model has: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj; or all-linear for all"
    )


@pytest.mark.model
def test_an_output_layer_that_training_would_pass_by_is_a_problem(problems, llama):
    [said] = problems("training.lora.target_modules=[q_proj, lm_head]", "model.context=128")
    assert said.startswith("--set training.lora.target_modules: the output layer (lm_head) cannot be adapted")


@pytest.mark.model
def test_an_embedding_that_is_also_the_output_layer_is_a_problem(problems, llama, tmp_path):
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    [said] = problems("training.lora.target_modules=[q_proj, embed_tokens]", "model.context=128")
    assert said.startswith(
        "--set training.lora.target_modules: the adapter changes model.embed_tokens, whose"
    )


@pytest.mark.model
def test_a_model_of_no_known_kind_is_a_problem_where_its_modules_are_asked_for(problems, llama, tmp_path):
    (tmp_path / "model" / "config.json").write_text('{"model_type": "unheard-of"}')
    [said] = problems("training.lora.target_modules=[q_proj]", "model.context=128")
    assert "model.name: model/config.json makes no language model: " in said


def test_a_setting_that_the_backend_cannot_honour_is_a_problem(problems, agent_yaml, tmp_path):
    text = (tmp_path / agent_yaml).read_text()
    (tmp_path / agent_yaml).write_text(text.replace("backend: engine", "backend: remote"))
    assert problems("model.dtype=float32", purpose="eval") == [
        '--set model.dtype: the backend "remote" calls a model elsewhere and cannot set its '
        "dtype. Leave dtype out"
    ]


def test_another_backend_need_not_honour_what_the_file_says(problems, agent_yaml, tmp_path):
    text = (tmp_path / agent_yaml).read_text()
    text = text.replace("model: ./model", "model: {name: ./model, dtype: float32}")
    (tmp_path / agent_yaml).write_text(text)
    other = Override(("backend",), {"name": "remote"}, "--backend")
    assert problems(other, purpose="eval") == []


def test_a_backend_that_refuses_its_options_is_a_problem(problems):
    [said] = problems("backend={name: remote, options: {url: ftp}}", purpose="eval")
    assert re.fullmatch(
        r'--set backend: backend "remote" of local \(entry point "shop"\) could not be made: '
        r"ValueError: url must begin with http \(config/conftest\.py:\d+\)",
        said,
    )


def test_a_backend_whose_engine_is_missing_gets_the_command_that_installs_it(problems):
    needs = "needs the package an_engine_that_is_not_there.core, which is not installed. Run:"
    assert problems("backend=unready", purpose="eval") == [
        f"--set backend: backend.name: unready {needs} pip install 'grpo-agent-framework[vllm]'"
    ]
    assert problems("backend=unready_elsewhere", purpose="eval") == [
        f"--set backend: backend.name: unready_elsewhere {needs} pip install acme-engine"
    ]


@pytest.mark.parametrize("module", ["torch", "trl", "peft"])
def test_training_needs_its_extra(problems, uninstall, module):
    uninstall(module)
    assert problems() == [
        f"agent.yaml:1: training: training needs the package {module}, which is not "
        "installed. Run: pip install 'grpo-agent-framework[train]'"
    ]
    assert problems(purpose="eval") == []


def test_trackers_must_be_known_and_installed(problems, uninstall):
    uninstall("wandb", "tensorboard")
    assert problems("training.report_to=[trackoi, excel, tensorboard, wandb]") == [
        '--set training.report_to: training.report_to[0]: no tracker "trackoi". Did you mean "trackio"?',
        '--set training.report_to: training.report_to[1]: no tracker "excel". '
        "There are: tensorboard, trackio, wandb",
        "--set training.report_to: training.report_to[2]: tensorboard needs the package "
        "tensorboard, which is not installed. "
        "Run: pip install 'grpo-agent-framework[tensorboard]'",
        "--set training.report_to: training.report_to[3]: wandb needs the package wandb, "
        "which is not installed. Run: pip install wandb",
    ]


def test_a_model_directory_must_be_one(problems):
    [line] = problems("model=./elsewhere")
    assert line.startswith(
        '--set model: model.name: model "./elsewhere" cannot be had: the directory elsewhere does not exist. '
        "Here are: smollm2-135m"
    )


def test_a_model_directory_must_hold_weights_that_are_safe_to_read(problems, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    (tmp_path / "bare" / "pytorch_model.bin").write_text("")
    [line] = problems("model=./bare")
    assert "bare holds no .safetensors weights" in line


def test_a_context_beyond_what_the_model_was_made_for_is_a_problem(problems, tmp_path):
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 4096}')
    assert problems("model.context=4096") == []
    assert problems("model.context=4097") == [
        "--set model.context: the model was made for 4096 tokens at most. Lower it to that or less"
    ]


def test_a_near_miss_of_a_model_is_a_problem(problems):
    assert problems("model=smollm-135m") == [
        '--set model: model.name: no model "smollm-135m". Did you mean "smollm2-135m"? '
        "Here are: smollm2-135m; or give a hub id (owner/name) or a directory"
    ]


def test_a_model_that_only_a_hub_has_may_be_the_embedded_one(problems):
    """``gpt2`` is what the usage guide says."""
    assert problems("model=gpt2") == [
        '--set model: model.name: no model "gpt2". Here are: smollm2-135m; to have smollm2-135m in its '
        "place, set GRPO_MODEL_ALIASES=gpt2=smollm2-135m; or give a hub id (owner/name) or a directory"
    ]


def test_a_hub_id_is_left_to_the_run(problems):
    assert problems("model=HuggingFaceTB/SmolLM2-135M-Instruct") == []


def test_a_model_whose_package_is_missing_is_a_problem(problems, monkeypatch, tmp_path):
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path))
    monkeypatch.setattr("grpo_host.models.embedded._installed_version", lambda _: None)
    assert problems("model=smollm2-135m") == [
        '--set model: model.name: the model "smollm2-135m" is not installed. '
        "Run: grpo-host models install smollm2-135m"
    ]


def test_a_chat_needs_no_environment(report):
    found = report("environment.options.fails=no shelf", purpose="chat")
    assert (found.problems, found.tasks) == ([], {})


def test_an_environment_that_says_that_it_loads_for_long_is_waited_for(problems):
    assert problems("environment=loading", "agent.limits.probe_seconds=0.1") == []


def test_an_environments_own_backend_is_checked_as_a_judge_is(problems):
    def visited(guest: str) -> str:
        return f"environment={{name: visited, options: {{guest: {guest}}}}}"

    assert problems(visited("{name: remote, model: x}")) == []
    [problem] = problems(visited("{name: remot, model: x}"))
    assert 'environment.options.guest.name: no backend "remot". Did you mean "remote"?' in problem
