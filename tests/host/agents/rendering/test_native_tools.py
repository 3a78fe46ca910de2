from __future__ import annotations

import json
from typing import get_args

import pytest

from grpo_host.agents.rendering import find_renderer
from grpo_host.agents.rendering.native_tools import FORMS, NativeTools
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_host.plugins.use import ToolFormat
from grpo_sdk import ModelError, ModelSpec, assistant, system, tool_call, tool_result, user
from grpo_sdk.tools import MALFORMED_CALL

pytestmark = pytest.mark.model

LEVEL = {"type": "string", "enum": ["low", "urgent"], "description": "How soon."}
ORDER = {"type": "string", "description": "As printed <|im_end|> on the bill."}
PARAMETERS = {"type": "object", "properties": {"order": ORDER, "level": LEVEL}, "required": ["order"]}
TOOLS = [
    {"type": "function", "function": {"name": "lookup", "description": "Find it.", "parameters": PARAMETERS}}
]
CALL = tool_call("lookup", '{"order": "A 12", "level": "urgent"}', "call_0")
AGAIN = tool_call("lookup", '{"order": "B7"}', "call_1")
HISTORY = [user("Where is A 12?")]

# Family: a call as its models write it.
WRITTEN = '{"order": "A 12", "level": "urgent"}'
FAMILIES = {
    "qwen 2.5": f'<tool_call>\n{{"name": "lookup", "arguments": {WRITTEN}}}\n</tool_call><|im_end|>',
    "llama 3.1": f'{{"name": "lookup", "parameters": {WRITTEN}}}<|eot_id|>',
    "mistral": f'[TOOL_CALLS] [{{"name": "lookup", "arguments": {WRITTEN}}}]</s>',
    "mistral, newer": f"[TOOL_CALLS]lookup[ARGS]{WRITTEN}</s>",
    "qwen 3.5": (
        "<tool_call>\n<function=lookup>\n<parameter=order>\nA 12\n</parameter>\n<parameter=level>\nurgent\n"
        "</parameter>\n</function>\n</tool_call><|im_end|>"
    ),
    "glm 4": (
        "\n<think></think>\n<tool_call>lookup\n<arg_key>order</arg_key>\n<arg_value>A 12</arg_value>\n"
        "<arg_key>level</arg_key>\n<arg_value>urgent</arg_value>\n</tool_call><|observation|>"
    ),
}
SEVERAL = [name for name in FAMILIES if name != "llama 3.1"]  # it makes one call at a time


@pytest.fixture(scope="module")
def renderer_of(tokenizer_of):
    made = {}

    def make(name):
        if name not in made:
            made[name] = TemplateRenderer(tokenizer_of(name))
        return made[name]

    return make


def functions(calls):
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def sampled(renderer, name):
    return renderer.tokenizer.encode(FAMILIES[name], add_special_tokens=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_tools_reach_the_model_whole_in_the_templates_own_form(renderer_of, name):
    renderer = renderer_of(name)
    prompt = renderer.tokenizer.decode(renderer.prompt(HISTORY, TOOLS))
    assert "To use a tool, reply only with" not in prompt
    for text in ("lookup", "Find it.", '"urgent"', "How soon.", "As printed <|im_end|> on the bill."):
        assert text in prompt
    assert "lookup" not in renderer.tokenizer.decode(renderer.prompt(HISTORY, []))


def test_what_a_tools_description_spells_ends_no_turn(renderer_of):
    renderer = renderer_of("qwen 2.5")
    [end] = renderer.stop_ids
    harmless = json.loads(json.dumps(TOOLS).replace("<|im_end|>", ""))
    assert renderer.prompt(HISTORY, TOOLS).count(end) == renderer.prompt(HISTORY, harmless).count(end)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_is_read_as_the_models_of_the_family_write_it(renderer_of, name):
    renderer = renderer_of(name)
    text, calls = renderer.parse(sampled(renderer, name), TOOLS)
    assert functions(calls) == functions([CALL])
    assert text.replace("<think></think>", "").strip() == ""


@pytest.mark.parametrize("name", FAMILIES)
def test_a_warm_start_teaches_calls_as_the_template_writes_them(renderer_of, name):
    renderer = renderer_of(name)
    taught = renderer.completion(assistant("", [CALL]))
    assert functions(renderer.parse(taught, TOOLS)[1]) == functions([CALL])
    assert taught[-1] == sampled(renderer, name)[-1]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("number", [1, 2])
def test_what_follows_a_tools_answer_is_what_the_template_writes(renderer_of, name, number):
    if number > 1 and name not in SEVERAL:
        pytest.skip("one call at a time")
    renderer = renderer_of(name)
    said = assistant("", [CALL, AGAIN][:number])
    new = [tool_result(call, "on its way") for call in said["tool_calls"]]
    held, completion = renderer.prompt(HISTORY, TOOLS), renderer.completion(said)
    more = renderer.extension(held, completion, new, TOOLS)
    assert more is not None
    whole = renderer.prompt([*HISTORY, said, *new], TOOLS)
    assert renderer.tokenizer.decode([*held, *completion, *more]) == renderer.tokenizer.decode(whole)
    assert not renderer.doubts


def test_a_template_that_moves_its_tools_begins_a_new_sequence_with_a_question(renderer_of):
    renderer = renderer_of("mistral")
    held, completion = renderer.prompt(HISTORY, TOOLS), renderer.completion(assistant("Soon."))
    assert renderer.extension(held, completion, [user("And?")], TOOLS) is None
    assert renderer.extension(held, completion, [user("And?")], []) is not None


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [1, 1000])
def test_a_call_is_not_shown_while_it_comes(renderer_of, name, size):
    renderer = renderer_of(name)
    ids = sampled(renderer, name)
    reader = renderer.reader(TOOLS)
    shown = "".join(reader.feed(ids[at : at + size]) for at in range(0, len(ids), size))
    assert shown.replace("<think></think>", "").strip() == ""


@pytest.mark.parametrize("name", SEVERAL)
def test_a_malformed_call_is_kept_as_it_was_written_and_said_again(renderer_of, name):
    renderer = renderer_of(name)
    form = renderer.native.form
    written = f"{form.opening} lookup please {form.closing}".rstrip()
    ids = renderer.tokenizer.encode(written, add_special_tokens=False)
    _, calls = renderer.parse(ids, TOOLS)
    assert [call["function"] for call in calls] == [{"name": MALFORMED_CALL, "arguments": written}]
    new = [tool_result(calls[0], "What?")]
    prompt = renderer.prompt([*HISTORY, assistant("", calls), *new], TOOLS)
    assert written in renderer.tokenizer.decode(prompt)


def test_json_that_calls_nothing_is_an_answer(renderer_of):
    renderer = renderer_of("llama 3.1")
    ids = renderer.tokenizer.encode('{"total": 7}<|eot_id|>', add_special_tokens=False)
    assert renderer.parse(ids, TOOLS) == ('{"total": 7}', [])
    broken = renderer.tokenizer.encode('{"name": "lookup", "par<|eot_id|>', add_special_tokens=False)
    [call] = renderer.parse(broken, TOOLS)[1]
    assert call["function"]["name"] == MALFORMED_CALL


def test_a_fine_tuned_copy_in_a_directory_has_its_familys_form(tokenizer_of, tmp_path):
    tokenizer_of("llama 3.1").save_pretrained(tmp_path)
    renderer = find_renderer(tokenizer_of("llama 3.1"), ModelSpec("mine", tmp_path))
    assert renderer.native.form == FORMS["llama3_json"]


def test_a_template_that_knows_no_tools_has_them_in_the_system_prompt(smollm_tokenizer):
    renderer = TemplateRenderer(smollm_tokenizer)
    assert renderer.native is None
    prompt = smollm_tokenizer.decode(renderer.prompt([system("Be kind."), *HISTORY], TOOLS))
    assert "To use a tool, reply only with" in prompt


def test_the_users_format_takes_the_place_of_the_templates(tokenizer_of):
    tokenizer = tokenizer_of("llama 3.1")
    plain = TemplateRenderer(tokenizer, tool_format="text")
    assert "To use a tool, reply only with" in tokenizer.decode(plain.prompt([system("S"), *HISTORY], TOOLS))
    hermes = TemplateRenderer(tokenizer, tool_format="hermes")
    assert "To use a tool" not in tokenizer.decode(hermes.prompt([system("S"), *HISTORY], TOOLS))
    said = tokenizer.encode('<tool_call>{"name": "lookup"}</tool_call>', add_special_tokens=False)
    assert functions(hermes.parse(said, TOOLS)[1]) == [("lookup", {})]


@pytest.mark.parametrize(
    ("tool_format", "words"),
    [
        ("hermes", r"tool_format: hermes: the model's chat template takes no tools"),
        ("xml", r'no format "xml"\. There are: auto, text, hermes'),
    ],
)
def test_a_format_that_the_template_cannot_have_is_refused(smollm_tokenizer, tool_format, words):
    with pytest.raises(ModelError, match=words):
        TemplateRenderer(smollm_tokenizer, tool_format=tool_format)


ONE, OTHER = (f'{{"name": "{name}", "arguments": {WRITTEN}}}' for name in ("lookup", "find"))
AS_MODELS_WRITE = [
    ("hermes", f"<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{OTHER}\n</tool_call>"),
    ("llama3_json", f"{ONE}; {OTHER}".replace("arguments", "parameters")),
    ("mistral", f"[TOOL_CALLS] [{ONE}, {OTHER}]"),
    ("granite", f"<|tool_call|> [{ONE}, {OTHER}]"),
    ("hermes", f"<tool_call>[{ONE}, {OTHER}]"),  # Granite 3.1
    ("phi4_mini_json", f"functools[{ONE}, {OTHER}]"),
]


@pytest.mark.parametrize(("tool_format", "text"), AS_MODELS_WRITE)
def test_a_named_format_reads_what_the_models_of_its_name_write(tool_format, text):
    shown, calls = NativeTools(FORMS[tool_format]).parse(text, TOOLS)
    order = json.loads(WRITTEN)
    assert functions(calls) == [("lookup", order), ("find", order)]
    assert shown == ""


def test_every_named_format_is_tested():
    assert {name for name, _ in AS_MODELS_WRITE} == set(FORMS)


def test_agent_yaml_names_the_formats_that_there_are():
    assert get_args(ToolFormat) == ("auto", "text", *FORMS)


def test_tools_whose_calls_a_template_drops_are_described_and_that_is_said(tokenizer_of):
    tokenizer = tokenizer_of("qwen 2.5")
    tokenizer.chat_template = tokenizer.chat_template.replace("message.tool_calls", "message.never")
    renderer = TemplateRenderer(tokenizer)
    assert renderer.native is None
    [doubt] = renderer.doubts
    assert "how it writes calls and results was not found out" in doubt
