from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from grpo_host.local_model import LocalModel
from grpo_host.plugins import Registry
from grpo_sdk import CapabilityError, ConfigError, ModelError, PluginError, Sampling, Strategy, hookimpl, user
from grpo_sdk.testing import ScriptedBackend


class Counted(ScriptedBackend):
    """Counts its starts; the first fails where ``broken``."""

    local_weights = True
    starts = 0

    def __init__(self, model, *, broken: bool = False):
        super().__init__(model)
        self.broken = broken
        Counted.starts = 0

    async def start(self):
        Counted.starts += 1
        await asyncio.sleep(0.01)
        if self.broken:
            raise ModelError("no weights")


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


def test_it_speaks_in_one_event_loop_after_another():
    model = LocalModel("any", backend=ScriptedBackend(replies=["One.", "Two."]))

    async def talk():
        conversation = (await model.agent(sampling=Sampling())).open()
        return (await conversation.act([user("Hi")]))["content"]

    assert [asyncio.run(talk()), asyncio.run(talk())] == ["One.", "One."]
    asyncio.run(model.close())


def test_a_load_that_failed_is_tried_again(registry, directory):
    model = LocalModel(str(directory), backend="counted", options={"broken": True}, registry=registry)
    for _ in range(2):
        with pytest.raises(ModelError, match="no weights"):
            asyncio.run(model.start())
    assert Counted.starts == 1  # of a backend made anew
    asyncio.run(model.close())


def test_one_caller_who_gives_up_does_not_stop_the_load_for_others(registry, directory):
    model = LocalModel(str(directory), backend="counted", registry=registry)

    async def ask():
        hasty = asyncio.create_task(model.start())
        patient = asyncio.create_task(model.start())
        await asyncio.sleep(0)
        hasty.cancel()
        return await patient

    assert asyncio.run(ask())[0]
    asyncio.run(model.close())


def test_a_closed_model_starts_again(registry, directory):
    model = LocalModel(str(directory), backend="counted", registry=registry)
    for _ in range(2):
        asyncio.run(model.start())
        assert Counted.starts == 1  # of the new backend
        asyncio.run(model.close())
    asyncio.run(model.close())


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


def test_an_unknown_backend_and_unknown_options_are_named(registry, directory):
    with pytest.raises(PluginError, match=r'no backend "conted".*Did you mean "counted"'):
        asyncio.run(LocalModel("any", backend="conted", registry=registry).start())
    model = LocalModel(str(directory), backend="counted", options={"speed": 1}, registry=registry)
    with pytest.raises(ConfigError, match='options of the backend "counted": speed'):
        asyncio.run(model.start())


def test_a_model_that_cannot_be_had_says_what_can(registry):
    with pytest.raises(ModelError, match=r'model "./none" cannot be had.*Here are: smollm2-135m'):
        asyncio.run(LocalModel("./none", backend="counted", registry=registry).start())


def test_making_one_loads_nothing_heavy():
    script = (
        "import sys; from grpo_host.local_model import LocalModel; LocalModel('gpt2'); "
        "print(sorted({'torch', 'transformers', 'vllm', 'sqlalchemy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_an_adapter_is_refused_where_the_backend_loads_none(tmp_path):
    model = LocalModel("any", backend="scripted", adapter=tmp_path)
    with pytest.raises(CapabilityError, match='the backend "scripted" loads no adapters'):
        asyncio.run(model.start())


def test_backends_of_ones_own_never_share_an_identity():
    def identity():
        model = LocalModel("any", backend=ScriptedBackend())
        asyncio.run(model.start())
        said = model.identity()
        asyncio.run(model.close())
        return said

    assert len({identity() for _ in range(20)}) == 20
