from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import ClassVar

import pytest

from grpo_host.backends.local_model import LocalModel
from grpo_host.plugins import Registry
from grpo_sdk import Capability, ConfigError, ModelError, Sampling, Strategy, hookimpl, user
from grpo_sdk.errors import CapabilityError, PluginError
from grpo_sdk.testing import ScriptedBackend


class Counted(ScriptedBackend):
    """Counts its starts; the first fails where ``broken``."""

    capabilities = ScriptedBackend.capabilities | {Capability.LOCAL_WEIGHTS, Capability.WEIGHT_SYNC}
    starts = 0
    closed: ClassVar = []
    weight_version = 0

    def __init__(self, model, *, broken: bool = False):
        super().__init__(model)
        self.broken = broken
        Counted.starts = 0
        Counted.closed.clear()

    async def start(self):
        Counted.starts += 1
        await asyncio.sleep(0.01)
        if self.broken:
            raise ModelError("no weights")

    async def close(self):
        Counted.closed.append(self)

    async def update_weights(self, weights, *, version):
        self.weight_version = version


class Plugin:
    @hookimpl
    def grpo_backends(self):
        return {"counted": Counted}


@pytest.fixture
def registry():
    made = Registry()
    made.register(Plugin(), "mine")
    return made


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 300}))
    (tmp_path / "model.safetensors").write_text("")
    return tmp_path


def test_a_model_is_loaded_once_for_all_who_ask(registry, directory):
    model = LocalModel(str(directory), backend="counted", registry=registry)

    async def ask():
        return await asyncio.gather(*(model.agent(strategy=Strategy("s")) for _ in range(10)))

    agents = [*asyncio.run(ask()), *asyncio.run(ask())]
    assert Counted.starts == 1
    assert len({id(agent.backend) for agent in agents}) == 1
    assert agents[0].strategy.name == "s"
    asyncio.run(model.close())


@pytest.fixture
def start(registry, directory):
    """Starts another model of the same directory: its backend."""
    made = []

    def start(**options):
        made.append(LocalModel(str(directory), backend="counted", registry=registry, **options))
        return asyncio.run(made[-1].start())[0]

    yield start
    for model in made:
        asyncio.run(model.close())


def say(backend):
    return asyncio.run(backend.chat([user("Hi")], Sampling())).message["content"]


def test_models_of_the_same_weights_and_options_share_them(start):
    first, second, other = start(), start(), start(context=200)
    assert first.inner is second.inner
    assert other.inner is not first.inner


def test_a_shared_backend_is_closed_with_the_last_of_its_models(start):
    first, second = start(), start()
    shared = first.inner
    asyncio.run(first.close())
    asyncio.run(first.close())
    assert say(second)
    assert Counted.closed == []
    asyncio.run(second.close())
    assert Counted.closed == [shared]
    assert start().inner is not shared


def test_new_weights_are_only_for_the_model_that_is_given_them(start):
    trained, other = start(), start()
    asyncio.run(trained.update_weights([], version=3))
    assert trained.inner.weight_version == 3
    assert other.inner.weight_version == 0
    assert say(other)
    assert start().inner is other.inner


def test_nobody_else_comes_to_weights_that_were_replaced(start):
    trained = start()
    loaded = trained.inner
    asyncio.run(trained.update_weights([], version=3))
    assert trained.inner is loaded  # its own: not loaded twice
    assert start().inner is not loaded


def test_a_backend_that_failed_is_not_given_to_others(start, monkeypatch):
    failing = start()

    async def chat(messages, sampling, tools=()):
        raise RuntimeError("the engine died")

    monkeypatch.setattr(failing.inner, "chat", chat)
    with pytest.raises(RuntimeError):
        say(failing)
    assert say(start())


def test_it_speaks_in_one_event_loop_after_another():
    model = LocalModel("any", backend=ScriptedBackend(replies=["One.", "Two."]))

    async def talk():
        conversation = (await model.agent(sampling=Sampling())).open()
        return (await conversation.act([user("Hi")]))["content"]

    assert [asyncio.run(talk()), asyncio.run(talk())] == ["One.", "One."]
    asyncio.run(model.close())


async def test_a_load_that_failed_is_tried_again(registry, directory):
    model = LocalModel(str(directory), backend="counted", options={"broken": True}, registry=registry)
    for _ in range(2):
        with pytest.raises(ModelError, match="no weights"):
            await model.start()
    assert Counted.starts == 1  # of a backend made anew
    await model.close()


async def test_one_caller_who_gives_up_does_not_stop_the_load_for_others(registry, directory):
    model = LocalModel(str(directory), backend="counted", registry=registry)

    async def ask():
        hasty = asyncio.create_task(model.start())
        patient = asyncio.create_task(model.start())
        await asyncio.sleep(0)
        hasty.cancel()
        return await patient

    assert (await ask())[0]
    await model.close()


async def test_a_closed_model_starts_again(registry, directory):
    model = LocalModel(str(directory), backend="counted", registry=registry)
    for _ in range(2):
        await model.start()
        assert Counted.starts == 1  # of the new backend
        await model.close()
    await model.close()


def test_the_context_is_no_longer_than_the_models(registry, directory):
    def context(**options):
        model = LocalModel(str(directory), backend="counted", registry=registry, **options)
        backend, _ = asyncio.run(model.start())
        asyncio.run(model.close())
        return backend.model.context

    assert (context(), context(context=200)) == (300, 200)
    with pytest.raises(
        ModelError, match="takes 300 tokens at most, and 301 are asked for; lower the context"
    ):
        context(context=301)


async def test_an_unknown_backend_and_unknown_options_are_named(registry, directory):
    with pytest.raises(PluginError, match=r'no backend "conted".*Did you mean "counted"'):
        await LocalModel("any", backend="conted", registry=registry).start()
    model = LocalModel(str(directory), backend="counted", options={"speed": 1}, registry=registry)
    with pytest.raises(ConfigError, match='options of the backend "counted": speed'):
        await model.start()


async def test_a_model_that_cannot_be_had_says_what_can(registry):
    with pytest.raises(ModelError, match=r'model "./none" cannot be had.*Here are: smollm2-135m'):
        await LocalModel("./none", backend="counted", registry=registry).start()


def test_making_one_loads_nothing_heavy():
    script = (
        "import sys; from grpo_host.backends.local_model import LocalModel; LocalModel('gpt2'); "
        "print(sorted({'torch', 'transformers', 'vllm', 'sqlalchemy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


async def test_an_adapter_is_refused_where_the_backend_loads_none(tmp_path):
    model = LocalModel("any", backend="scripted", adapter=tmp_path)
    with pytest.raises(CapabilityError, match='the backend "scripted" loads no adapters'):
        await model.start()


def test_backends_of_ones_own_never_share_an_identity():
    def identity():
        model = LocalModel("any", backend=ScriptedBackend())
        asyncio.run(model.start())
        said = model.identity()
        asyncio.run(model.close())
        return said

    assert len({identity() for _ in range(20)}) == 20


def test_text_in_the_place_of_the_context_is_named_when_the_model_is_made():
    with pytest.raises(ConfigError, match="the context must be a whole number, not '2048'"):
        LocalModel("small", context="2048")  # type: ignore[arg-type]
