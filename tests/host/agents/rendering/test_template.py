from __future__ import annotations

import re

import pytest

from grpo_host.agents.rendering import make_renderer
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_sdk import ModelError, assistant, system, tool_call, tool_result, user
from grpo_sdk.errors import CapabilityError
from grpo_sdk.tools import as_tool, tool_schema


def lookup(order: str) -> str:
    """Look up an order."""
    return order


TOOLS = [tool_schema(as_tool(lookup))]
CALL = tool_call("lookup", '{"order": "A12"}', "call_0")
RESULT = tool_result(CALL, "on its way")

CONVERSATIONS = {
    "one question": ([user("Hello!")], [], [user("Thanks.")]),
    "a system message": ([system("Be kind."), user("Hi")], [], [user("And?")]),
    "long history": (
        [user("1"), assistant("2"), user("3"), assistant("4"), user("5")], [], [user("7"), user("8")],
    ),
    "unicode and newlines": ([user("👋 naïve\n\n ")], [], [user("\n日本語  ")]),
    "a tool": ([user("Where is it?")], TOOLS, [RESULT]),
    "two tool results": ([system("Be kind."), user("Where?")], TOOLS, [RESULT, RESULT]),
    "a tool result and a word": ([user("Where?")], TOOLS, [RESULT, user("Well?")]),
}  # fmt: skip


@pytest.mark.model
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("said", [assistant("It is on its way."), assistant("Wait.", [CALL]), assistant("")])
def test_an_extension_is_what_the_template_itself_would_write(smollm_tokenizer, name, said):
    history, tools, new = CONVERSATIONS[name]
    renderer = TemplateRenderer(smollm_tokenizer)
    held, completion = renderer.prompt(history, tools), renderer.completion(said)
    more = renderer.extension(held, completion, new, tools)
    assert more is not None
    whole = renderer.prompt([*history, said, *new], tools)
    assert [*held, *completion, *more] == whole
    assert smollm_tokenizer.decode([*held, *completion, *more]) == smollm_tokenizer.decode(whole)


@pytest.mark.model
def test_the_real_template_is_rendered_as_it_is(smollm_tokenizer):
    messages = [system("Be kind."), user("Hello!")]
    rendered = smollm_tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    ids = rendered if isinstance(rendered, list) else rendered["input_ids"]
    assert TemplateRenderer(smollm_tokenizer).prompt(messages, []) == ids


@pytest.mark.model
def test_a_model_without_a_renderer_of_its_own_gets_the_template_renderer(smollm_tokenizer):
    assert isinstance(make_renderer(smollm_tokenizer), TemplateRenderer)


def without_old_reasoning(messages):
    """As many templates do: reasoning is kept in the last message alone."""
    kept = [
        {**m, "content": re.sub(r"<think>.*</think>", "", m["content"], flags=re.DOTALL)}
        for m in messages[:-1]
    ]
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in [*kept, messages[-1]])


def numbered(messages):
    return "".join(f"<|im_start|>{i} {m['role']}\n{m['content']}<|im_end|>\n" for i, m in enumerate(messages))


def without_old_answers(messages):
    """Forgets what the assistant said before the last user message."""
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    kept = [m for i, m in enumerate(messages) if m["role"] == "user" or i > last]
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in kept)


def counted(messages):
    """Says how many turns there were, in front of everything."""
    return f"{len(messages)}\n" + "".join(f"{m['role']}: {m['content']}<|im_end|>\n" for m in messages)


@pytest.mark.parametrize("template", [numbered, without_old_answers, counted])
def test_a_template_that_looks_back_gives_no_extension(fakes, template):
    tokenizer = fakes.PieceTokenizer(template)
    renderer = TemplateRenderer(tokenizer)
    completion = renderer.completion(assistant("hello"))
    assert renderer.extension(renderer.prompt([user("Hi")], []), completion, [user("And?")], []) is None


def test_dropped_reasoning_is_recognised_where_there_was_some(fakes):
    renderer = TemplateRenderer(fakes.PieceTokenizer(without_old_reasoning))
    held = renderer.prompt([user("Hi")], [])
    thinking = renderer.completion(assistant("<think>Hm.</think>hello"))
    plain = renderer.completion(assistant("hello"))
    assert renderer.extension(held, thinking, [user("And?")], []) is None
    assert renderer.extension(held, plain, [user("And?")], []) is not None


def test_a_template_without_end_tokens_gives_no_extension(fakes):
    renderer = TemplateRenderer(
        fakes.PieceTokenizer(lambda messages: "".join(m["content"] for m in messages))
    )
    assert renderer.extension([5], [5, 1], [user("And?")], []) is None


def test_only_a_completion_that_was_cut_gets_an_end_token(fakes):
    renderer = TemplateRenderer(fakes.PieceTokenizer())
    held = renderer.prompt([user("Hi")], [])
    ended = renderer.extension(held, [105, 1], [user("And?")], [])
    cut = renderer.extension(held, [105], [user("And?")], [])
    nothing = renderer.extension(held, [], [user("And?")], [])
    assert cut == nothing == [1, *ended]


def test_a_completion_is_parsed_to_what_it_was_made_of(fakes):
    renderer = TemplateRenderer(fakes.PieceTokenizer())
    for said in (assistant("hello"), assistant("Wait.", [CALL]), assistant("", [CALL, CALL])):
        text, calls = renderer.parse(renderer.completion(said), TOOLS)
        assert text == said["content"]
        assert [call["function"] for call in calls] == [c["function"] for c in said.get("tool_calls", [])]


def test_special_tokens_in_the_middle_are_no_text(fakes):
    tokenizer = fakes.PieceTokenizer()
    ids = [*tokenizer.encode("hello"), 0, *tokenizer.encode("order"), 1]
    assert TemplateRenderer(tokenizer).parse(ids, []) == ("helloorder", [])


def test_a_tokenizer_without_a_template_is_refused(fakes):
    tokenizer = fakes.PieceTokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"no chat template, .*choose an instruct or chat model"):
        make_renderer(tokenizer)


def test_a_tokenizer_without_an_end_token_is_refused(fakes):
    tokenizer = fakes.PieceTokenizer(lambda messages: "".join(m["content"] for m in messages))
    tokenizer.eos_token_id = None
    with pytest.raises(ModelError, match=r"no end token, .*; set eos_token .*or model.stop"):
        make_renderer(tokenizer)


def test_a_conversation_that_the_template_refuses_is_the_callers_mistake(fakes):
    from jinja2 import TemplateError

    def strict(messages):
        if messages[0]["role"] != "user":
            raise TemplateError("users speak first")
        return ""

    renderer = TemplateRenderer(fakes.PieceTokenizer(strict))

    with pytest.raises(CapabilityError, match="takes no such conversation: users speak first"):
        renderer.prompt([assistant("Hello")], ())
