from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import pytest

from grpo_backends.transformers_engine import TransformersBackend
from grpo_host.agents.rendering import find_renderer, make_renderer
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_host.agents.session import TokenSession
from grpo_sdk import ModelError, ModelSpec, Sampling, assistant, system, tool_call, tool_result, user

pytestmark = pytest.mark.model


@dataclass(frozen=True)
class Family:
    """What tells a family from others: its special tokens, and which of them end what."""

    template: str
    """A file of TRL's, without its suffix."""
    tokens: tuple[str, ...]
    end: str
    """What ends an assistant's turn."""
    eos: str
    """The tokenizer's own end token."""


LLAMA3 = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|eom_id|>", "<|python_tag|>",
)  # fmt: skip
FAMILIES = {
    "gemma": Family("gemma", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", "<eos>"),
    "llama 3": Family("llama3", LLAMA3, "<|eot_id|>", "<|end_of_text|>"),
    "phi 3": Family("phi3", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|end|>", "<|endoftext|>"),
    "qwen 2.5": Family("qwen2_5", ("<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|im_end|>"),
    "a base model with ChatML": Family("qwen2_5", ("<|im_start|>", "<|im_end|>"), "<|im_end|>", "<|endoftext|>"),
    "cohere": Family(
        "cohere2",
        (
            "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>",
        ),
        "<|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
    ),
    "glm 4": Family(
        "glm4moe",
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        "<|user|>",
        "<|endoftext|>",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer_of(family_tokenizer):
    """Gives the tokenizer of a family by its name."""

    def make(name):
        family = FAMILIES[name]
        return family_tokenizer(family.template, family.tokens, family.eos)

    return make


HISTORY = [user("Where is A12?")]
SAID = assistant("It is on its way.")
RESULT = tool_result(tool_call("lookup", "{}", "call_0"), "on its way")


def texts(tokenizer, ids):
    return [tokenizer.decode([id]) for id in ids]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_ends_where_the_chat_template_ends_it(tokenizer_of, name):
    tokenizer = tokenizer_of(name)
    renderer = TemplateRenderer(tokenizer)
    ends = texts(tokenizer, renderer.stop_ids)
    assert (ends[0], FAMILIES[name].eos in ends) == (FAMILIES[name].end, True)
    assert texts(tokenizer, renderer.completion(SAID))[-1] == FAMILIES[name].end


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("new", [[user("And?")], [RESULT]], ids=["a question", "a tool result"])
def test_an_extension_gives_what_the_chat_template_writes(tokenizer_of, name, new):
    tokenizer = tokenizer_of(name)
    renderer = TemplateRenderer(tokenizer, tool_format="text")
    assert renderer.doubts == ()
    held, completion = renderer.prompt(HISTORY, []), renderer.completion(SAID)
    more = renderer.extension(held, completion, new, [])
    assert more is not None
    whole = renderer.prompt([*HISTORY, SAID, *new], [])
    assert tokenizer.decode([*held, *completion, *more]) == tokenizer.decode(whole)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_that_was_cut_is_ended_as_the_chat_template_ends_it(tokenizer_of, name):
    tokenizer = tokenizer_of(name)
    renderer = TemplateRenderer(tokenizer)
    held, completion = renderer.prompt(HISTORY, []), renderer.completion(SAID)
    cut = [id for id in completion if texts(tokenizer, [id])[0] not in FAMILIES[name].tokens]
    more = renderer.extension(held, cut, [user("And?")], [])
    assert more is not None
    whole = renderer.prompt([*HISTORY, SAID, user("And?")], [])
    assert tokenizer.decode([*held, *cut, *more]) == tokenizer.decode(whole)


def test_another_turns_opening_that_the_model_wrote_is_not_taken_for_the_users(tokenizer_of):
    """GLM's turns end with the first token of the next: a tool result cannot follow <|user|>."""
    tokenizer = tokenizer_of("glm 4")
    renderer = TemplateRenderer(tokenizer, configured=tokenizer.convert_tokens_to_ids(["<|observation|>"]))
    held = renderer.prompt(HISTORY, [])
    asked = tokenizer.encode("Hm.<|observation|>", add_special_tokens=False)
    assert renderer.extension(held, asked, [user("And?")], []) is None


def save(tokenizer, path, **settings):
    """A tiny model's directory without weights."""
    tokenizer.save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 1}))
    if settings:
        (path / "generation_config.json").write_text(json.dumps(settings))
    return ModelSpec("tiny", path)


@pytest.mark.parametrize("one", [False, True], ids=["several", "one"])
def test_the_ends_of_the_generation_settings_count(tokenizer_of, tmp_path, one):
    tokenizer = tokenizer_of("llama 3")
    ids = tokenizer.convert_tokens_to_ids(["<|eom_id|>", "<|end_of_text|>"])
    spec = save(tokenizer, tmp_path, eos_token_id=ids[0] if one else ids)
    ends = texts(tokenizer, find_renderer(tokenizer, spec).stop_ids)
    assert ends == ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"]


def test_without_generation_settings_those_of_the_model_count(tokenizer_of, tmp_path):
    tokenizer = tokenizer_of("llama 3")
    assert 1 in find_renderer(tokenizer, save(tokenizer, tmp_path)).stop_ids


@pytest.mark.parametrize("as_id", [False, True], ids=["text", "id"])
def test_the_users_ends_take_the_place_of_the_templates(tokenizer_of, tmp_path, as_id):
    tokenizer = tokenizer_of("llama 3")
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|eot_id|>'", "'<|eom_id|><|eot_id|>'")
    assert texts(tokenizer, TemplateRenderer(tokenizer).stop_ids)[0] == "<|eom_id|>"
    stop = tokenizer.convert_tokens_to_ids("<|eot_id|>") if as_id else "<|eot_id|>"
    spec = save(tokenizer, tmp_path)
    renderer = find_renderer(tokenizer, ModelSpec("tiny", spec.path, stop=(stop,)))
    assert renderer.doubts == ()
    assert texts(tokenizer, renderer.stop_ids)[0] == "<|eot_id|>"
    assert texts(tokenizer, renderer.completion(SAID))[-2:] == ["<|eom_id|>", "<|eot_id|>"]


def test_a_known_model_whose_ends_the_user_names_is_rendered_by_its_template(tokenizer_of):
    tokenizer = tokenizer_of("qwen 2.5")
    tokenizer.name_or_path = "Qwen/Qwen3-4B-Instruct-2507"
    renderer = find_renderer(tokenizer, ModelSpec("tiny", stop=("<|im_end|>",)))
    assert isinstance(renderer, TemplateRenderer)


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ("two words", r'model\.stop: \[1\]: "two words" is not one token .*such as <'),
        (1_000_000, r"model\.stop: \[1\]: there is no token 1000000; the tokenizer has \d+"),
    ],
)
def test_an_end_that_is_no_token_is_refused(tokenizer_of, stop, words):
    with pytest.raises(ModelError, match=words):
        TemplateRenderer(tokenizer_of("gemma"), stop=["<end_of_turn>", stop])


PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def test_what_shows_no_end_is_said_when_the_model_is_loaded(family_tokenizer, caplog):
    tokenizer = family_tokenizer("gemma", ["<bos>", "<eos>"], "<eos>")
    tokenizer.chat_template = PLAIN
    with caplog.at_level(logging.WARNING, "grpo_host"):
        renderer = make_renderer(tokenizer, ModelSpec("tiny"))
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("model tiny: nothing shows where a turn ends")
    assert "It stops only at <eos>" in said
    assert renderer.extension(renderer.prompt(HISTORY, []), renderer.completion(SAID), HISTORY, []) is None


def test_a_named_end_that_the_template_does_not_write_is_said(tokenizer_of):
    renderer = TemplateRenderer(tokenizer_of("gemma"), stop=["<bos>"])
    [doubt] = renderer.doubts
    assert "'<end_of_turn>\\n" in doubt
    assert "none of model.stop (<bos>, <eos>)" in doubt


def test_history_that_is_rewritten_is_said(tokenizer_of):
    tokenizer = tokenizer_of("qwen 2.5")
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    [doubt] = TemplateRenderer(tokenizer).doubts
    assert "every turn then begins a new sequence" in doubt


def test_an_answer_that_is_written_otherwise_afterwards_is_said(tokenizer_of):
    tokenizer = tokenizer_of("qwen 2.5")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'"
    )
    [doubt] = TemplateRenderer(tokenizer).doubts
    assert "writes an earlier answer otherwise" in doubt


def test_a_template_that_takes_no_system_message_gets_it_with_the_first_question(tokenizer_of):
    tokenizer = tokenizer_of("gemma")
    prompt = TemplateRenderer(tokenizer).prompt([system("Be kind."), user("Hi")], [])
    assert tokenizer.decode(prompt) == (
        "<bos><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_template_that_drops_system_messages_gets_them_with_the_first_question(fakes):
    def forgetful(messages):
        return fakes.chatml([message for message in messages if message["role"] != "system"])

    tokenizer = fakes.PieceTokenizer(forgetful)
    prompt = TemplateRenderer(tokenizer).prompt([system("Be kind.")], [])
    assert "user\nBe kind." in tokenizer.decode(prompt)


@pytest.fixture(scope="module")
def says_hello(tmp_path_factory):
    """Makes a model that says Hello, ends its turn, and would go on for ever if nothing stopped it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(tokenizer, end):
        path = tmp_path_factory.mktemp("says-hello")
        hello, last = tokenizer.encode("Hello")[0], tokenizer.convert_tokens_to_ids(end)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, max_position_embeddings=512, tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.model.norm.weight.fill_(1.0)
            model.model.embed_tokens.weight[:, 0] = 1.0  # whatever was said last: Hello
            model.model.embed_tokens.weight[hello] = torch.eye(8)[1]
            model.lm_head.weight[hello, 0] = model.lm_head.weight[last, 1] = 50.0
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        return path

    return make


@pytest.mark.parametrize("name", ["gemma", "llama 3", "phi 3", "a base model with ChatML", "glm 4"])
async def test_a_model_of_another_family_holds_a_conversation_in_one_sequence(tokenizer_of, says_hello, name):
    path = says_hello(tokenizer_of(name), FAMILIES[name].end)

    async def talk():
        backend = TransformersBackend(ModelSpec("tiny", path, dtype="float32", context=512))
        await backend.start()
        try:
            renderer = make_renderer(backend.tokenizer, backend.model)
            session = TokenSession(backend, renderer, [system("Be kind.")], ())
            greedy = Sampling(max_tokens=16, temperature=0.0)
            return [await session.respond([user(text)], greedy) for text in ("Hi", "And?")], session
        finally:
            await backend.close()

    replies, session = await talk()
    assert [(reply.message["content"], reply.finish_reason) for reply in replies] == [("Hello", "stop")] * 2
    [sequence] = session.ledger().sequences
    assert sum(sequence.mask) == 4
