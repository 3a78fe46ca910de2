from __future__ import annotations

import shutil

import pytest

from grpo_backends.transformers_engine import TransformersBackend
from grpo_host.agents.rendering import make_renderer
from grpo_host.agents.rendering.library import LibraryRenderer
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_sdk import ModelSpec, assistant, system, tool_call, tool_result, user
from grpo_sdk.tools import MALFORMED_CALL, as_tool, tool_schema

pytestmark = pytest.mark.model


def lookup(order: str) -> str:
    """Look up an order."""
    return order


TOOLS = [tool_schema(as_tool(lookup))]
CALL = tool_call("lookup", '{"order": "A12"}', "call_0")
RESULT = tool_result(CALL, "on its way")


@pytest.fixture(scope="module")
def qwen(model_path):
    """Qwen3's renderer on the embedded model's tokenizer, which gets Qwen's special tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokens = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.unk_token = "<repo_name>"  # it is <|endoftext|>, which Qwen knows as a token of its own
    tokenizer.name_or_path = "Qwen/Qwen3-4B-Instruct-2507"
    return make_renderer(tokenizer), tokenizer


def test_a_model_that_the_library_knows_gets_its_renderer(qwen):
    renderer, tokenizer = qwen
    assert isinstance(renderer, LibraryRenderer)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in renderer.stop_ids


def test_the_library_says_where_each_message_ends(qwen):
    renderer, tokenizer = qwen
    first = [system("Be kind."), user("Where is it?")]
    held, said = renderer.prompt(first, TOOLS), renderer.completion(assistant("", [CALL]))
    start, end = renderer.ends(held, [], [], first, TOOLS)
    assert tokenizer.decode(held[start:end]).strip() == "<|im_start|>user\nWhere is it?<|im_end|>"
    more = renderer.extension(held, said, [RESULT], TOOLS)
    [end] = renderer.ends(more, held, said, [RESULT], TOOLS)
    assert "on its way" in tokenizer.decode(more[:end])
    assert tokenizer.decode(more[end:]).startswith("<|im_start|>assistant")


async def test_a_backend_of_a_hub_model_gets_its_renderer_though_it_loads_from_a_directory(
    qwen, tiny_model_path, tmp_path
):
    """The hub's client keeps a model in a folder that is named after it."""
    kept = tmp_path / "hub" / "models--Qwen--Qwen3-4B-Instruct-2507" / "snapshots" / "cafe"
    shutil.copytree(tiny_model_path, kept)

    async def renderer_of(directory):
        backend = TransformersBackend(ModelSpec("my-alias", path=directory, context=128))
        await backend.start()
        try:
            return make_renderer(backend.tokenizer)
        finally:
            await backend.close()

    _, tokenizer = qwen
    tokenizer.save_pretrained(kept)
    assert isinstance(await renderer_of(kept), LibraryRenderer)
    assert isinstance(await renderer_of(tiny_model_path), TemplateRenderer)


CALLED = '<tool_call>\n{"name": "lookup", "arguments": {"order": "A12"}}\n</tool_call>'


@pytest.mark.parametrize(("text", "said"), [("Soon.", assistant("Soon.")), (CALLED, assistant("", [CALL]))])
@pytest.mark.parametrize("new", [[RESULT], [RESULT, RESULT]])
def test_an_extension_is_what_the_renderer_itself_would_write(qwen, text, said, new):
    renderer, tokenizer = qwen
    history = [system("Be kind."), user("Where is A12?")]
    held = renderer.prompt(history, TOOLS)
    completion = tokenizer.encode(f"{text}<|im_end|>", add_special_tokens=False)
    more = renderer.extension(held, completion, new, TOOLS)
    assert more is not None
    assert [*held, *completion, *more] == renderer.prompt([*history, said, *new], TOOLS)


def test_a_question_of_the_user_drops_reasoning_and_gives_no_extension(qwen):
    """Qwen3's template forgets reasoning before the last question: history is rewritten."""
    renderer, tokenizer = qwen
    held = renderer.prompt([user("Hi")], [])
    thought = tokenizer.encode("<think>\nHm.\n</think>\n\nHello<|im_end|>", add_special_tokens=False)
    assert renderer.extension(held, thought, [user("And?")], []) is None
    assert renderer.extension(held, thought, [RESULT], []) is not None


def test_a_completion_that_was_cut_is_extended_behind_its_own_ids(qwen):
    renderer, tokenizer = qwen
    held = renderer.prompt([user("Hi")], [])
    cut = tokenizer.encode("Let me", add_special_tokens=False)
    more = renderer.extension(held, cut, [RESULT], [])
    assert more[0] in renderer.stop_ids
    assert tokenizer.decode(more).endswith("<|im_start|>assistant\n")


def test_an_assistant_message_in_what_is_new_gives_no_extension(qwen):
    renderer, _ = qwen
    held, completion = renderer.prompt([user("Hi")], []), renderer.completion(assistant("Hello"))
    assert renderer.extension(held, completion, [assistant("And?")], []) is None


@pytest.mark.parametrize(
    "said", [assistant("Soon."), assistant("Wait.", [CALL]), assistant("", [CALL, CALL])]
)
def test_a_completion_is_parsed_to_what_it_was_made_of(qwen, said):
    renderer, _ = qwen
    ids = renderer.completion(said)
    assert ids[-1] in renderer.stop_ids
    text, calls = renderer.parse(ids, TOOLS)
    assert text.strip() == said["content"]
    assert [call["function"] for call in calls] == [call["function"] for call in said.get("tool_calls", [])]


@pytest.mark.parametrize("raw", ['{"name": "lookup", "arguments":', "lookup(A12)", '{"arguments": {}}'])
def test_a_malformed_call_is_kept_as_it_was_written(qwen, raw):
    renderer, tokenizer = qwen
    ids = tokenizer.encode(f"<tool_call>\n{raw}\n</tool_call><|im_end|>", add_special_tokens=False)
    _, [call] = renderer.parse(ids, TOOLS)
    assert call["function"]["name"] == MALFORMED_CALL
    assert call["function"]["arguments"] == f"<tool_call>\n{raw}\n</tool_call>"
    again = tokenizer.decode(renderer.prompt([user("Hi"), assistant("", [call])], TOOLS))
    assert call["function"]["arguments"] in again
    assert MALFORMED_CALL not in again


def test_tools_are_in_the_prompt(qwen):
    renderer, tokenizer = qwen
    assert '"lookup"' in tokenizer.decode(renderer.prompt([user("Hi")], TOOLS))
    assert "lookup" not in tokenizer.decode(renderer.prompt([user("Hi")], []))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("Your parcel is on its way \u2014 today. 🙂", "Your parcel is on its way \u2014 today. 🙂"),
        ("<think>\nHm, A12.\n</think>\n\nIt is on its way.", "It is on its way."),
        ("Let me look.\n" + CALLED, "Let me look."),
        (CALLED, ""),
        ('{"not": "a call"}', '{"not": "a call"}'),
    ],
)
@pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "no tools"])
def test_a_reply_is_shown_as_it_comes(qwen, text, seen, tools):
    renderer, tokenizer = qwen
    ids = tokenizer.encode(f"{text}<|im_end|>", add_special_tokens=False)
    whole, _ = renderer.parse(ids, tools)
    reader = renderer.reader(tools)
    shown = [reader.feed([id]) for id in ids]
    held = bool(tools) and seen.startswith("{")
    assert "".join(shown) == ("" if held else seen)
    assert whole.startswith("".join(shown))
    assert len([part for part in shown if part]) > 3 or not seen or held


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"arguments": {"order": "</tool_call> A12"}', '{"order": "</tool_call> A12"}'),
        ('"parameters": {"order": "A12"}', '{"order": "A12"}'),
        ('"arguments": null', "{}"),
        (r'"arguments": "{\"order\": \"A12\"}"', '{"order": "A12"}'),
    ],
)
def test_a_call_is_read_as_json(qwen, written, read):
    renderer, tokenizer = qwen
    call = f'<tool_call>\n{{"name": "lookup", {written}}}\n</tool_call>'
    ids = tokenizer.encode(f"Wait. {call}\n{call}<|im_end|>", add_special_tokens=False)
    text, calls = renderer.parse(ids, TOOLS)
    assert text.strip() == "Wait."
    assert [call["function"] for call in calls] == [{"name": "lookup", "arguments": read}] * 2


def test_a_number_that_json_has_not_is_malformed(qwen):
    renderer, tokenizer = qwen
    call = '<tool_call>\n{"name": "lookup", "arguments": {"order": NaN}}\n</tool_call>'
    [read] = renderer.parse(tokenizer.encode(call, add_special_tokens=False), TOOLS)[1]
    assert read["function"]["name"] == MALFORMED_CALL
