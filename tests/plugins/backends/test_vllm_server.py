"""The backend ``vllm_server`` against servers that speak its protocol, and started ones that are killed."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
from grpo_backends import replica_pool, replica_process
from grpo_backends.vllm_server import VllmServerBackend
from grpo_sdk import ContextOverflowError, ModelSpec, Sampling, TokenReply
from grpo_sdk.backend import Capability
from grpo_sdk.errors import (
    CapabilityError,
    ConfigError,
    MissingExtraError,
    ModelError,
    ProviderError,
    RunError,
)
from grpo_sdk.testing import BackendContract

pytestmark = pytest.mark.slow

FAKE = Path(__file__).with_name("fake_vllm_server.py")
FakeVllm: Any = runpy.run_path(str(FAKE))["FakeVllm"]
PROMPT = list(range(3, 27))


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer and no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "</s>", "What", "is", "the", "capital", "of", "France", "?"]
    words += [f"w{number}" for number in range(64 - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="</s>")
    fast.save_pretrained(path)
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "adapter")


def make_adapter(path: Path, rank: int = 8) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    return path


@pytest.fixture
def fakes() -> Iterator[Callable[..., FakeVllm]]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(FakeVllm(**settings))


@pytest.fixture
def backend(tokenizer_path: Path, tmp_path: Path) -> Callable[..., VllmServerBackend]:
    def make(*servers: FakeVllm | str, context: int = 256, **options: Any) -> VllmServerBackend:
        addresses = [server if isinstance(server, str) else server.address for server in servers]
        spec = ModelSpec("tiny", path=tokenizer_path, context=context)
        options.setdefault("start_seconds", 10.0)
        made = VllmServerBackend(spec, servers=addresses or None, **options)
        made.directory = tmp_path
        return made

    return make


class started:
    """``async with started(backend)``."""

    def __init__(self, backend: VllmServerBackend) -> None:
        self.backend = backend

    async def __aenter__(self) -> VllmServerBackend:
        await self.backend.start()
        return self.backend

    async def __aexit__(self, *_: object) -> None:
        await self.backend.close()


class _NoGrammar(VllmServerBackend):
    """The fake samples by no grammar; a real server is tested with one in test_vllm_serve.py."""

    capabilities = VllmServerBackend.capabilities - {Capability.STRUCTURED, Capability.ADAPTERS}

    async def load_adapter(self, path: Path) -> None:
        raise self._cannot(Capability.ADAPTERS)


class TestContract(BackendContract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _server(cls, tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        cls.path, cls.adapter_path = tokenizer_path, make_adapter(tmp_path_factory.mktemp("a") / "adapter")
        with FakeVllm() as cls.one, FakeVllm() as cls.other:
            yield
            cls.teardown_class()

    def make(self) -> VllmServerBackend:
        spec = ModelSpec("tiny", path=self.path, context=128)
        return _NoGrammar(spec, servers=[self.one.address, self.other.address])

    def adapter(self) -> Path:
        return self.adapter_path


async def sample(backend: VllmServerBackend, prompt: list[int] = PROMPT, **settings: Any) -> TokenReply:
    return await backend.generate(prompt, Sampling(**{"max_tokens": 16, "seed": 1, **settings}))


def completions(fake: FakeVllm) -> list[dict[str, Any]]:
    """What it was asked, but for the question whether its log-probs are right."""
    return [body for body in fake.asked if "allowed_token_ids" not in body]


async def test_a_request_says_all_that_a_server_would_else_take_from_the_model(backend, fakes) -> None:
    fake = fakes()

    async with started(backend(fake)) as made:
        await sample(made, temperature=0.7, stop_token_ids=(5,), max_tokens=1000)
    (asked,) = completions(fake)
    assert asked == {
        "model": "tiny",
        "prompt": PROMPT,
        "max_tokens": 256 - len(PROMPT),
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": [],
        "stop_token_ids": [5],
        "logprobs": 0,
        "return_token_ids": True,
        "stream": False,
        "seed": 1,
    }


async def test_a_stream_gives_the_ids_of_the_whole_answer(backend, fakes) -> None:
    async with started(backend(fakes())) as made:
        whole = await sample(made)
        items = [item async for item in made.stream_ids(PROMPT, Sampling(max_tokens=16, seed=1))]
        (*parts, last) = items
    assert last == whole
    assert [number for part in parts for number in part] == whole.ids


async def test_new_weights_are_a_new_name_at_a_new_place_and_the_old_ones_go(backend, fakes, adapter) -> None:
    one, other = fakes(), fakes()

    async def ask() -> list[int | None]:
        versions = []
        async with started(backend(one, other)) as made:
            for version in (1, 2, 3):
                await made.update_adapter(adapter, version=version)
                assert one.adapters == other.adapters
                ((name, path),) = one.adapters.items()
                assert name.endswith(f"-v{version}")
                assert Path(path).name == name
                assert {file.name for file in Path(path).parent.iterdir()} == {name}
                versions.append((await sample(made)).policy_version)
        return versions

    assert await ask() == [1, 2, 3]
    assert not one.adapters
    assert not other.adapters


@pytest.mark.parametrize("shared", [False, True])
async def test_adapters_that_a_killed_run_has_left_are_removed_and_those_of_other_runs_stay(
    backend, fakes, adapter, tmp_path, shared
) -> None:
    options = {"adapters": str(tmp_path / "shared")} if shared else {}
    killed, goes_on, other = (backend(fakes(), **options) for _ in range(3))
    killed.directory = goes_on.directory = tmp_path / "run-1"
    other.directory = tmp_path / "run-2"
    await killed.start()
    async with started(other):
        for made in (killed, other):
            await made.update_adapter(adapter, version=1)
        async with started(goes_on):
            await goes_on.update_adapter(adapter, version=1)
            assert len(list(tmp_path.rglob("*-v1"))) == 2
            await sample(goes_on)
            await sample(other)
    await killed.close()
    assert not list(tmp_path.rglob("*-v1"))


async def test_new_weights_wait_for_answers_that_would_be_too_old(
    backend, fakes, adapter, eventually
) -> None:
    fake = fakes()

    async def ask(staleness: int) -> tuple[bool, int | None, int]:
        made = backend(fake)
        made.max_staleness = staleness
        async with started(made):
            await made.update_adapter(adapter, version=1)
            fake.sampling.set()
            old = asyncio.ensure_future(sample(made))
            await eventually(lambda: made._under_way)
            new = asyncio.ensure_future(made.update_adapter(adapter, version=2))
            await eventually(lambda: made.weight_version == 2)
            waits = not new.done()
            fake.sampling.clear()
            await new
            return waits, (await old).policy_version, len(fake.adapters)

    assert await ask(0) == (True, 1, 1)
    assert await ask(1) == (False, 1, 2)


async def test_episodes_stay_with_their_replica_and_a_group_is_spread(backend, fakes) -> None:
    one, other = fakes(), fakes()

    async def episode(made: VllmServerBackend, seed: int) -> None:
        ids = list(PROMPT)
        for turn in range(4):
            ids += (await sample(made, ids, seed=seed)).ids + [turn] * 5

    async with started(backend(one, other)) as made:
        await asyncio.gather(*(episode(made, seed) for seed in range(8)))
    for fake in (one, other):
        asked = completions(fake)
        assert len(asked) == 16
        assert {sum(body["seed"] == seed for body in asked) for seed in range(8)} == {0, 4}


async def test_what_a_failing_replica_was_asked_is_asked_of_another(backend, fakes) -> None:
    one, other = fakes(), fakes()

    async with started(backend(one, other)) as made:
        expected = await sample(made)
        for fake in (one, other):
            fake.answers.append((500, "the engine is dead"))
        assert await sample(made) == expected
        assert sum(made.retried.values()) == 2


async def test_a_refusal_is_not_asked_again(backend, fakes) -> None:
    fake = fakes()

    async with started(backend(fake)) as made:
        fake.answers.append((400, "top_p must be in (0, 1]"))
        with pytest.raises(ProviderError, match=r"127.0.0.1:\d+: status 400: top_p must be"):
            await sample(made)
        fake.answers.append((400, "This model's maximum context length is 128 tokens."))
        with pytest.raises(ContextOverflowError):
            await sample(made)
        fake.answers.append((400, "Invalid grammar"))
        with pytest.raises(CapabilityError, match="the grammar cannot be enforced"):
            await sample(made, grammar="no grammar")
        fake.answers.append((500, "Internal server error"))  # vLLM's answer when it does not compile
        with pytest.raises(CapabilityError, match="the grammar cannot be enforced"):
            await sample(made, grammar="a grammar")
        fake.answers.append((401, "Unauthorized"))
        with pytest.raises(ProviderError, match="Check api_key"):
            await sample(made)
    assert len(completions(fake)) == 5


async def test_a_request_that_fails_everywhere_fails_in_the_end(backend, fakes) -> None:
    fake = fakes()

    async with started(backend(fake, retries=1)) as made:
        fake.answers += [(500, "poison")] * 2
        with pytest.raises(ProviderError, match=r"status 500: poison \(tried 2 times\)"):
            await sample(made)
        await sample(made)


async def test_a_stuck_replica_is_noticed_and_its_requests_go_elsewhere(backend, fakes, monkeypatch) -> None:
    monkeypatch.setattr(replica_pool, "LOOK_EVERY", 0.02)
    monkeypatch.setattr("grpo_backends.servers.CONTROL_SECONDS", 0.1)
    one, other = fakes(), fakes()

    async with started(backend(one, other)) as made:
        one.hanging.set()
        await asyncio.wait_for(asyncio.gather(*(sample(made, seed=seed) for seed in range(4))), 20)
        assert set(made.retried) == {one.address}
        one.hanging.clear()
    assert len(completions(other)) == 4


async def test_a_replica_that_has_lost_its_adapters_gets_them_again(backend, fakes, adapter) -> None:
    fake = fakes()

    async with started(backend(fake)) as made:
        await made.update_adapter(adapter, version=4)
        fake.adapters.clear()  # as after a restart of its pod
        assert (await sample(made)).policy_version == 4
        assert len(fake.adapters) == 1


@pytest.fixture
def named(fakes, monkeypatch) -> tuple[FakeVllm, FakeVllm, list[str]]:
    """Two servers of one port, and which of their addresses the name replicas.example stands for."""
    one, other = _of_one_port(fakes)
    addresses = ["127.0.0.1"]

    async def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        assert host == "replicas.example"
        if not addresses:
            raise OSError("Name or service not known")
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lambda _, *args, **kw: getaddrinfo(*args, **kw))
    return one, other, addresses


def _of_one_port(fakes) -> tuple[FakeVllm, FakeVllm]:
    while True:
        one = fakes()
        try:
            return one, fakes(host="127.0.0.2", port=one.server_address[1])
        except OSError:
            """Somebody else has taken that port of the other address: try the next."""


async def test_a_host_name_stands_for_all_its_addresses_and_they_may_change(backend, named, adapter) -> None:
    one, other, addresses = named
    async with started(backend(f"http://replicas.example:{one.server_address[1]}")) as made:
        assert made.connection()["servers"] == [one.address]
        addresses[:] = ["127.0.0.1", "127.0.0.2"]
        await made.update_adapter(adapter, version=1)
        assert made.connection()["servers"] == [one.address, other.address]
        addresses[:] = ["127.0.0.2"]
        await made.update_adapter(adapter, version=2)
        assert made.connection()["servers"] == [other.address]
        addresses.clear()  # at the moment none is ready
        await made.update_adapter(adapter, version=3)
        assert made.connection()["servers"] == [other.address]
        await sample(made)
    assert not completions(one)
    assert completions(other)


async def test_a_replica_that_joins_while_an_adapter_is_dropped_is_kept(
    backend, named, adapter, eventually
) -> None:
    one, other, addresses = named
    async with started(backend(f"http://replicas.example:{one.server_address[1]}")) as made:
        other.loading.set()
        addresses[:] = ["127.0.0.1", "127.0.0.2"]
        await made.update_adapter(adapter, version=1)
        await eventually(lambda: len(other.loads) == 1)
        await made.update_adapter(adapter, version=2)  # the first is gone before the other has read it
        other.loading.clear()
        addresses[:] = ["127.0.0.2"]
        await made.update_adapter(adapter, version=3)
        assert (await sample(made)).policy_version == 3
    assert completions(other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"processed": False}, "--logprobs-mode processed_logprobs"),
        ({"context": 64}, "--max-model-len 256, or lower model.context"),
    ],
)
async def test_a_server_that_is_set_up_wrongly_is_refused(backend, fakes, settings, said) -> None:
    made = backend(fakes(**settings))
    with pytest.raises(ConfigError, match=said):
        await made.start()


async def test_a_server_that_loads_no_adapters_is_told_how_to(backend, fakes, adapter) -> None:
    async def ask() -> None:
        async with started(backend(fakes(lora=False))) as made:
            await made.update_adapter(adapter, version=1)

    with pytest.raises(ConfigError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        await ask()


async def test_an_adapter_that_cannot_be_written_is_an_error_with_its_place(
    backend, fakes, adapter, tmp_path
) -> None:
    (tmp_path / "file").write_text("no directory")

    async def ask() -> None:
        async with started(backend(fakes(), adapters=str(tmp_path / "file"))) as made:
            await made.update_adapter(adapter, version=1)

    with pytest.raises(RunError, match=r"cannot write the adapter to .*file/.*-v1: .*adapters to another"):
        await ask()


async def test_a_server_that_is_not_there_is_named(backend, fakes) -> None:
    made = backend(f"http://127.0.0.1:{replica_process.free_port()}", start_seconds=0.3)
    with pytest.raises(ModelError, match=r"no replica that answers: http://127.0.0.1:\d+: .*cannot connect"):
        await made.start()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replicas": 0}, "at least 1"),
        ({"retries": -1}, "at least 0"),
        ({"max_lora_rank": 1024}, "between 1 and 512"),
        ({"timeout": 0}, "above 0"),
        ({"gpus": [0]}, "gpus names 1, and 2 replicas take 2"),
        ({"servers": []}, "servers is empty"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said) -> None:
    with pytest.raises(ValueError, match=said):
        VllmServerBackend(ModelSpec("tiny"), **{"replicas": 2, **options})


async def test_a_replica_is_not_started_without_vllm(backend, monkeypatch) -> None:
    monkeypatch.setattr("grpo_backends.vllm_server.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="starting a replica needs the package vllm"):
        await backend().start()


def test_a_replica_is_told_nothing_of_the_ranks_nor_of_an_engine_in_this_process(monkeypatch) -> None:
    for name in (
        "RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "TORCHELASTIC_RUN_ID",
        "VLLM_ENABLE_V1_MULTIPROCESSING",
    ):
        monkeypatch.setenv(name, "0")
    settings = replica_process.ServerSettings(Path("model"), "tiny", "float32", 256, threads=3)
    told = replica_process.environment(settings, (4, 5), on_cpu=True)
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"} & told.keys()
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in told
    assert (told["CUDA_VISIBLE_DEVICES"], told["OMP_NUM_THREADS"]) == ("4,5", "3")


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas are fakes in processes of their own."""
    monkeypatch.setattr("grpo_backends.vllm_server.find_spec", lambda _: object())
    monkeypatch.setattr(replica_process, "SERVER", (str(FAKE),))
    monkeypatch.setattr(replica_pool, "LOOK_EVERY", 0.1)


def children(log: Path) -> list[int]:
    """The processes that write to ``log``, and all below them."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.readlink(process / "fd" / "1") == str(log):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def kill_server(log: Path) -> None:
    """Kill what writes to ``log``, but not its guard."""
    for process in children(log):
        if "process_guard" not in Path(f"/proc/{process}/cmdline").read_text():
            os.kill(process, signal.SIGKILL)


@pytest.mark.torch
@pytest.mark.usefixtures("as_process")
def test_a_replica_that_is_killed_loses_nothing_and_is_started_again(
    backend, adapter, tmp_path, eventually
) -> None:
    async def ask() -> None:
        async with started(backend(replicas=2, extra_args=["--seconds", "0.2"])) as made:
            await made.update_adapter(adapter, version=1)
            asked = [asyncio.ensure_future(sample(made, seed=seed)) for seed in range(8)]
            await asyncio.sleep(0.1)
            kill_server(tmp_path / "replicas" / "replica-0.log")
            replies = await asyncio.gather(*asked)
            assert all(reply.policy_version == 1 and len(reply.ids) == 16 for reply in replies)
            assert sum(made.retried.values()) == 4
            again = [sample(made, seed=seed) for seed in range(8)]
            await asyncio.gather(*again)
            await eventually(lambda: all(replica.ready for replica in made._running().replicas))

    asyncio.run(ask())
    assert (tmp_path / "replicas" / "replica-0.log").read_text().count("a fake vllm serve") == 2


@pytest.mark.torch
@pytest.mark.usefixtures("as_process")
def test_a_replica_that_does_not_start_says_why(backend, tmp_path) -> None:
    made = backend(extra_args=["--fail"])
    with pytest.raises(ModelError, match="ended with exit code 1") as refused:
        asyncio.run(made.start())
    assert "ValueError: this model is too large" in str(refused.value)
    assert str(tmp_path / "replicas" / "replica-0.log") in str(refused.value)


@pytest.mark.torch
@pytest.mark.usefixtures("as_process")
def test_an_adapter_of_too_high_a_rank_is_refused(backend, tmp_path) -> None:
    high = make_adapter(tmp_path / "high", rank=32)

    async def ask() -> None:
        async with started(backend()) as made:
            await made.update_adapter(high, version=1)

    with pytest.raises(ModelError, match=r"Set backend\.options\.max_lora_rank to 32"):
        asyncio.run(ask())


@pytest.mark.torch
@pytest.mark.usefixtures("as_process")
def test_other_ranks_use_the_replicas_of_the_first(backend, adapter, tmp_path) -> None:
    async def ask() -> None:
        async with started(backend()) as first:
            other = backend()
            other.connect(first.connection())
            async with started(other):
                await first.update_adapter(adapter, version=1)
                await other.update_adapter(None, version=1)
                assert await sample(other) == await sample(first)
            assert (await sample(first)).policy_version == 1
        assert [path.name for path in (tmp_path / "replicas").glob("*.log")] == ["replica-0.log"]

    asyncio.run(ask())


RUN = """
import os, sys, time
from pathlib import Path
from grpo_backends.replica_process import ReplicaProcess
fake, log = sys.argv[1:]
options = ["--port", "0", "--served-model-name", "tiny", "--max-model-len", "64"]
ReplicaProcess("", [sys.executable, fake, *options], dict(os.environ), Path(log)).start()
while not Path(log).read_text():
    time.sleep(0.01)
print("started", flush=True)
time.sleep(600)
"""


def test_a_replica_does_not_outlive_a_run_that_is_killed(tmp_path) -> None:
    log = tmp_path / "replica-0.log"
    command = [sys.executable, "-c", RUN, str(FAKE), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "started\n"
        assert len(children(log)) == 2  # the server and its guard
        run.kill()
    ends = time.monotonic() + 30
    while children(log):
        assert time.monotonic() < ends, "the replica is still there"
        time.sleep(0.02)
