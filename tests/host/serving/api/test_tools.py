"""Tools on ``/v1``: what the model is shown of them, and what of its calls reaches the caller."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

LEVEL = {"type": "string", "enum": ["low", "high"], "description": "How urgent."}


@pytest.fixture
def serve(tmp_path, fakes, served):
    """A server whose model repeats what it was told last; told ``shown?``, it says its system prompt."""

    class Parrot(fakes.TokenBackend):
        def __init__(self, model) -> None:
            super().__init__(fakes.PieceTokenizer())
            self.model = model

        async def generate(self, prompt, sampling):
            messages = self._tokenizer.decode(prompt).split(fakes.START)[1:-1]
            roles, said = zip(
                *(m.removesuffix(f"{fakes.END}\n").split("\n", 1) for m in messages), strict=True
            )
            self._replies = ["".join(said[:1]) if said[-1] == "shown?" and roles[0] == "system" else said[-1]]
            return await super().generate(prompt, sampling)

    @asynccontextmanager
    async def start():
        model = tmp_path / "model"
        model.mkdir()
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").touch()
        agent = (
            f"name: desk\nmodel: {{name: {model}, context: 100000}}\nbackend: parrot\nenvironment: support_desk\n"
            "rewards: [length]\n"
        )
        async with served(agent, parrot=Parrot) as http:
            yield http

    return start


def offered(*parameters):
    """A tool for each of ``parameters``."""
    return [
        {"type": "function", "function": {"name": f"f{number}", "parameters": each}}
        for number, each in enumerate(parameters)
    ]


async def ask(http, *said, tools=(), **options):
    body = {
        "model": "desk",
        "messages": [{"role": "user", "content": text} if isinstance(text, str) else text for text in said],
        "max_tokens": 5000,
        **({"tools": list(tools)} if tools else {}),
        **options,
    }
    return await http.post(
        "/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )


def choice(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


async def test_the_model_is_shown_all_that_a_schema_says(serve):
    async def scenario():
        async with serve() as http:
            tools = offered({"type": "object", "properties": {"level": LEVEL}, "required": ["level"]})
            return choice(await ask(http, "shown?", tools=tools))["message"]["content"]

    assert (await run(scenario())).split("\n")[1:3] == ['f0(level: "low" | "high")', "  level: How urgent."]


async def run(scenario):
    return await scenario


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object", None])
FIELDS = st.recursive(
    st.booleans() | st.none() | st.fixed_dictionaries({"type": TYPES | st.lists(TYPES, max_size=3)}),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES),
            "properties": st.dictionaries(st.text(max_size=4), inner, max_size=3) | st.just([]) | st.none(),
            "required": st.lists(st.text(max_size=4), max_size=2) | st.none() | st.booleans(),
            "anyOf": st.lists(inner, max_size=3) | st.none(),
            "items": inner | st.lists(inner, max_size=2),
            "additionalProperties": inner,
            "$ref": st.sampled_from(["#", "#/$defs/a", "#/nowhere"]),
            "$defs": st.fixed_dictionaries({"a": inner}),
            "enum": st.lists(JSON, max_size=3) | st.none(),
            "default": JSON,
            "description": st.text(max_size=5) | JSON,
        },
    ),
    max_leaves=8,
)


async def test_any_json_schema_of_a_client_is_taken(serve):
    async def scenario():
        async with serve() as http:
            loop = asyncio.get_running_loop()

            @given(st.lists(FIELDS | st.just([]), min_size=1, max_size=4))
            def take(schemas):
                asked = ask(http, "shown?", tools=offered(*schemas))
                answer = asyncio.run_coroutine_threadsafe(asked, loop).result(60)
                assert choice(answer)["message"]["content"].startswith("Tools:")

            await asyncio.to_thread(take)

    await run(scenario())


@pytest.mark.parametrize("function", [{"name": "f"}, {"name": "f", "description": None, "parameters": None}])
async def test_a_tool_without_parameters_takes_none(serve, function):
    async def scenario():
        async with serve() as http:
            answer = await ask(http, "shown?", tools=[{"type": "function", "function": function}])
            return choice(answer)["message"]["content"].split("\n")[1]

    assert await run(scenario()) == "f()"


async def test_what_is_no_schema_is_a_bad_request(serve):
    async def scenario():
        async with serve() as http:
            return await ask(http, "shown?", tools=offered("string"))

    answer = await run(scenario())
    assert answer.status_code == 400
    assert "parameters" in answer.json()["error"]["param"]


CALL = '<tool_call>{"name": "f0", "arguments": {}}</tool_call>'
BROKEN = '<tool_call>{"name": "f0", "arguments": </tool_call>'


def of_stream(text):
    """The choice that the events of a stream make together."""
    message, reason = {"content": "", "tool_calls": []}, None
    for line in text.split("\n\n"):
        if line.startswith("data: {"):
            [piece] = json.loads(line[6:])["choices"]
            message["content"] += piece["delta"].get("content") or ""
            message["tool_calls"] += piece["delta"].get("tool_calls") or []
            reason = piece.get("finish_reason") or reason
    return {"message": message, "finish_reason": reason}


async def answered(http, *said, stream, **options):
    answer = await ask(http, *said, tools=offered({}), stream=stream, **options)
    return of_stream(answer.text) if stream else choice(answer)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("said", "content", "calls", "reason"),
    [
        (BROKEN, BROKEN, 0, "stop"),
        (f"Hm. {BROKEN}", f"Hm.\n{BROKEN}", 0, "stop"),
        (f"Hm. {BROKEN}{CALL}", f"Hm.\n{BROKEN}", 1, "tool_calls"),
        ('<tool_call>{"name": "", "arguments": {}}</tool_call>', None, 0, "stop"),
        (CALL, "", 1, "tool_calls"),
    ],
)
async def test_a_call_that_could_not_be_parsed_is_text(serve, stream, said, content, calls, reason):
    async def scenario():
        async with serve() as http:
            return await answered(http, said, stream=stream)

    got = await run(scenario())
    assert (got["message"].get("content") or "") == (said if content is None else content)
    assert len(got["message"].get("tool_calls") or ()) == calls
    assert got["finish_reason"] == reason


async def test_a_call_that_was_cut_off_is_text_that_was_cut_off(serve):
    async def scenario():
        async with serve() as http:
            return await answered(http, BROKEN, stream=False, max_tokens=12)

    got = await run(scenario())
    assert got["finish_reason"] == "length"
    assert BROKEN.startswith(got["message"]["content"])


@pytest.mark.parametrize("stream", [False, True])
async def test_no_two_calls_of_a_conversation_have_one_id(serve, stream):
    async def scenario():
        async with serve() as http:
            said, ids = [], []
            for _ in range(3):
                said.append({"role": "user", "content": CALL + CALL})
                message = (await answered(http, *said, stream=stream, seed=7))["message"]
                calls = [
                    {key: call[key] for key in ("id", "type", "function")} for call in message["tool_calls"]
                ]
                said.append({"role": "assistant", "content": message.get("content"), "tool_calls": calls})
                said += [{"role": "tool", "tool_call_id": c["id"], "content": "Done."} for c in calls]
                ids += [call["id"] for call in calls]
            return ids

    ids = await run(scenario())
    assert len(ids) == len(set(ids)) == 6


async def test_half_a_surrogate_pair_in_a_request_is_no_failure(serve):
    async def scenario():
        async with serve() as http:
            return choice(await ask(http, "See \ud83d"))["message"]["content"]

    assert await run(scenario()) == "See \ufffd"


@pytest.mark.parametrize(("role", "said"), [("user", "ann: Hi"), ("assistant", "Hi")])
async def test_a_model_that_is_shown_no_names_reads_who_speaks(serve, role, said):
    async def scenario():
        async with serve() as http:
            return choice(await ask(http, "Well?", {"role": role, "name": "ann", "content": "Hi"}))

    assert (await run(scenario()))["message"]["content"] == said
