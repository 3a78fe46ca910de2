"""The guide's ``MultiTurnAgent``: its names, and the embedded model behind them."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import Any

import pytest

from grpo_agent_framework.core.multiturn_agent import DialogueDatabase, MultiTurnAgent
from grpo_host.backends.local_model import LocalModel
from grpo_host.chat.store import MemoryStore
from grpo_sdk import ConfigError, Message, Sampling, assistant, tool_call
from grpo_sdk.errors import PluginError
from grpo_sdk.testing import ScriptedBackend


def scripted(script: Any = None, **config: Any) -> dict[str, Any]:
    """A ``model_config`` whose model does as ``script`` says."""
    script = script or (lambda messages, tools: f"to {messages[-1]['content']}")
    return {"backend": ScriptedBackend(script=script), **config}


async def test_the_guides_conversation() -> None:
    shown: list[list[Message]] = []

    def script(messages: list[Message], tools: Any) -> str:
        shown.append(list(messages))
        return "Of course."

    agent = MultiTurnAgent(
        model_config=scripted(
            script, model_type="advanced_customer_service", temperature=0.7, max_tokens=200
        ),
        max_context_length=2048,
        max_conversation_turns=15,
        dialogue_database=DialogueDatabase(
            [{"id": "cs_001", "content": "I need help with my order", "expected_response": "I'll check it"}],
            embedder=None,
        ),
    )

    context = await agent.start_conversation(user_id="u", initial_context={"topic": "returns"})
    answer = await agent.generate_multiturn_response(
        context.conversation_id, "Hi, I need help with my order", strategy="customer_service"
    )
    conversation_id = context.conversation_id
    assert answer == "Of course."
    system = shown[0][0]["content"]
    assert system.startswith("You are a customer service agent.")
    assert "- topic: returns" in system
    assert "I'll check it" in system
    assert [c.conversation_id for c in agent.get_active_conversations()] == [conversation_id]
    summary = agent.get_conversation_summary(conversation_id)
    assert (summary["user_id"], summary["turns"], summary["last_response"]) == ("u", 1, "Of course.")
    await agent.close()


async def test_a_summary_can_be_asked_for_inside_of_an_event_loop() -> None:
    async with MultiTurnAgent(scripted()) as agent:
        context = await agent.start_conversation()
        summary = agent.get_conversation_summary(context.conversation_id)
    assert (summary["turns"], summary["last_response"], summary["strategy"]) == (0, None, "plain")


async def test_registered_tools_are_used_by_themselves() -> None:
    def script(messages: list[Message], tools: list[Any]) -> Message | str:
        if messages[-1]["role"] == "tool":
            return messages[-1]["content"]
        return assistant("", [tool_call(tools[0]["function"]["name"], '{"query": "VPN"}', "c")])

    async def search(query: str) -> str:
        return f"Found: {query}"

    async def talk() -> str:
        async with MultiTurnAgent(scripted(script)) as agent:
            agent.register_tool("search_knowledge_base", search)
            context = await agent.start_conversation()
            answer = await agent.generate_multiturn_response(context.conversation_id, "Help", use_tools=True)
            tools = agent.get_conversation_summary(context.conversation_id)["tools_used"]
            return f"{answer} by {tools}"

    assert await talk() == "Found: VPN by ['search_knowledge_base']"


async def test_an_answer_is_streamed() -> None:
    async def talk() -> list[str]:
        async with MultiTurnAgent(scripted()) as agent:
            context = await agent.start_conversation()
            stream = agent.stream_multiturn_response(context.conversation_id, "a b")
            return [piece async for piece in stream]

    assert await talk() == ["to", " a", " b"]


async def test_a_text_is_answered_without_a_conversation_left() -> None:
    store = MemoryStore()
    agent = MultiTurnAgent(scripted(), store=store)
    assert await agent.generate_response("Hi") == "to Hi"
    assert agent.get_active_conversations() == []
    assert not await store.list()
    await agent.close()


def test_limits_can_be_changed_while_it_lives() -> None:
    agent = MultiTurnAgent(scripted())
    assert (agent.max_context_length, agent.max_conversation_turns) == (None, 20)
    agent.context_compression_threshold = 0.6
    agent.max_context_length, agent.max_conversation_turns = 1024, 10
    window = agent.chat.window
    assert (window.threshold, window.tokens, window.turns) == (0.6, 1024, 10)
    with pytest.raises(ValueError, match="a share above 0 and at most 1"):
        agent.context_compression_threshold = 60


async def test_the_settings_reach_the_host() -> None:
    config = scripted(
        temperature=0.2, max_tokens=99, top_p=0.9, top_k=5, stop=["\n"], system_prompt="Be kind."
    )

    async with MultiTurnAgent(config, max_tool_rounds=3) as agent:
        agent = await agent.ready()
    assert agent.sampling == Sampling(99, 0.2, 0.9, 5, ("\n",))
    assert (agent.limits.turns, agent.strategy.instructions) == (3, "Be kind.")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"temprature": 1},
            r'model_config: temprature: unknown setting "temprature"\. Did you mean "temperature"',
        ),
        ({"temperature": -1}, "model_config: temperature: give at least 0"),
        (
            {"backend": ScriptedBackend(), "dtype": "float32", "context": 512},
            "model_config: context, dtype: a backend that is given is made already",
        ),
        ({"model_type": "a", "model": "b"}, 'model_type "a" and model "b" name each a model; leave one'),
        ({"model_type": "sales", "strategy": "plain"}, 'model_type "sales" and strategy "plain" name each a'),
        (
            {"model_type": "customer_servce"},
            r'model_config: there is no model "customer_servce"\. Did you mean "customer_service"',
        ),
        ({"model_type": "smolm2-135m"}, r'there is no model "smolm2-135m"\. Did you mean "smollm2-135m"'),
        ({"model": "./none"}, r'model "\./none" cannot be had: the directory none does not exist'),
        ({"model": "a b"}, 'model "a b" cannot be had: it is no alias, directory or hub id'),
        ({"adapter": "./none"}, "model_config: adapter: the directory none does not exist"),
        (
            {"backend": "transformers", "backend_options": {"windw": 1}},
            'options of the backend "transformers".*"windw"',
        ),
        ("gpt2", 'model_config: give a mapping such as {"model_type": "smollm2-135m"}, not str'),
    ],
)
def test_a_wrong_model_config_is_refused_at_once(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiTurnAgent(config)


def test_a_model_type_is_a_strategy_or_a_model() -> None:
    strategy, model, both = (
        MultiTurnAgent(config).chat
        for config in (
            {"model_type": "sales"},
            {"model_type": "gpt2"},
            {"model_type": "sales", "model": "gpt2"},
        )
    )
    assert [chat.strategy for chat in (strategy, model, both)] == ["sales", "plain", "sales"]
    assert [chat.model.name for chat in (strategy, model, both)] == ["smollm2-135m", "gpt2", "gpt2"]


def test_an_unknown_backend_is_refused_at_once() -> None:
    with pytest.raises(PluginError, match=r'no backend "vlm". Did you mean "vllm"'):
        MultiTurnAgent({"backend": "vlm"})


def test_what_a_remote_backends_model_is_called_only_its_provider_knows() -> None:
    agent = MultiTurnAgent({"backend": "scripted", "model": "customer_servce"})
    assert isinstance(agent.chat.model, LocalModel)
    assert agent.chat.model.name == "customer_servce"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"dialogue_database": [{"content": "Hi", "expected_response": "Hello"}]},
            r"dialogue_database .*: list has no search\(\). Give a DialogueDatabase",
        ),
        ({"cache_service": {}}, r"cache_service .*: dict is no cache, which has get\(\) and set\(\)"),
        ({"store": {}}, "store: dict is no ConversationStore. Give a MemoryStore, or SqlStore.sqlite"),
        ({"max_tool_rounds": 0}, "may call its model 0 times a message; give 1 or more"),
        ({"max_tool_rounds": "8"}, "call its model for a message must be a whole number, not '8'"),
    ],
)
def test_a_part_that_is_none_is_refused_at_once(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiTurnAgent(**parts)


async def test_debug_mode_logs_what_is_said(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("grpo_host.chat")
    before = logger.level
    agent = MultiTurnAgent(scripted(), debug_mode=True)
    try:
        assert await agent.generate_response("A secret") == "to A secret"
    finally:
        logger.setLevel(before)
    assert "A secret" in caplog.text
    await agent.close()


def test_importing_it_loads_nothing_heavy() -> None:
    script = (
        "import sys; from grpo_agent_framework import MultiTurnAgent; MultiTurnAgent({'model_type': 'sales'}); "
        "print(sorted({'torch', 'transformers', 'vllm', 'trl', 'litellm', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
async def test_the_embedded_model_talks_under_the_name_of_an_alias(
    model_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_MODEL_ALIASES", "gpt2=smollm2-135m")
    agent = MultiTurnAgent(
        {"model_type": "gpt2", "backend": "transformers", "temperature": 0, "max_tokens": 24},
        cache_service=(cache := _Counting()),
    )

    async def begin() -> str:
        context = await agent.start_conversation(initial_context={"customer": "Ann"})
        return context.conversation_id

    async def stream(conversation_id: str, message: str) -> list[str]:
        return [piece async for piece in agent.stream_multiturn_response(conversation_id, message)]

    # Each in an event loop of its own.
    first, second = await begin(), await begin()
    whole = await agent.generate_multiturn_response(first, "What is the capital of France?")
    cached = await stream(second, "What is the capital of France?")
    assert "Paris" in whole
    assert (cached, cache.hits) == ([whole], 1)
    pieces = await stream(first, "Count from one to five.")
    assert len(pieces) > 3
    assert agent.get_conversation_summary(first)["last_response"] == "".join(pieces)
    await agent.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "grpo-model"]


class _Counting:
    """A cache that counts what is found."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.hits = 0

    def get(self, key: str) -> Any:
        found = self.values.get(key)
        self.hits += found is not None
        return found

    def set(self, key: str, value: Any, *, ttl: float | None = None) -> None:
        self.values[key] = value
