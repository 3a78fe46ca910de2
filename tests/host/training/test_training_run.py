"""A run that was interrupted wherever it can be, and then damaged, against one that was not: a small model, the real trainer."""

from __future__ import annotations

import os
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from bench.chaos import timeless

from grpo_host.config.load import load_config
from grpo_host.config.resolve import resolve
from grpo_host.plugins import load_plugins
from grpo_host.runs.directory import RunDirectory
from grpo_host.utils.progress import Advance, Reporter
from grpo_sdk.errors import RunError

pytestmark = pytest.mark.model

# Every batch of the backend is full, so that its arithmetic is the same each time.
AGENT = """\
name: tiny
model: {{name: "{model}", context: 128}}
backend: {{name: transformers, options: {{max_batch: 4, window: 60.0}}}}
environment: {{name: arithmetic, options: {{train_tasks: 40, held_out_tasks: 4}}}}
rewards: [{{name: length}}]
sampling: {{max_tokens: 6}}
training:
  steps: 4
  tasks_per_step: 1
  group_size: 4
  micro_batch: 2
  learning_rate: 1.0e-2
  lora: {{dropout: 0.1}}
  save_every: {save_every}
  early_stopping: {{every: 2}}
evaluation: {{episodes: 4, after: false}}
output: "{output}"
"""


class Crash(BaseException):
    """The process ends here."""


def crash() -> None:
    raise Crash


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Meddling(Reporter):
    """Calls ``meddle`` when a phase ``at`` ends, or at a line that begins so."""

    def __init__(self, at: str, meddle: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self._at, self._meddle = at, meddle

    def line(self, text: str) -> None:
        if text.startswith(self._at):
            self._meddle()

    @contextmanager
    def phase(self, label: str, total: int | None = None, *, silent: bool = False) -> Iterator[Advance]:
        yield lambda: None
        if label == self._at:
            self._meddle()


INTERRUPTIONS = [
    ("evaluating (before)", crash),
    ("evaluating (step-0)", terminate),
    ("step 2: rollouts", terminate),
    ("evaluating (step-2)", terminate),
    ("evaluating (step-4)", crash),
]
"""Each is met by a process of its own, which goes on with what the one before has left."""


def damage(run: RunDirectory) -> None:
    """Cut the optimizer of the last checkpoint, and leave zeros where a power cut leaves them."""
    (run.checkpoints / "checkpoint-2" / "optimizer.pt").write_bytes(b"cut")
    for path in (run.metrics, run.trajectories):
        with path.open("ab") as file:
            file.write(b"\0" * 100 + b"\n")


@pytest.fixture(scope="module")
def runs(heavy: None, tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    """A run without interruptions, and one with all of ``INTERRUPTIONS`` and ``damage`` before its end."""
    from grpo_host.training.from_yaml import run_training

    finished = []
    for save_every, interruptions in ((100, []), (2, INTERRUPTIONS)):
        path = tmp_path_factory.mktemp("runs")
        text = AGENT.format(model=tiny_model_path, save_every=save_every, output=path / "runs")
        (path / "agent.yaml").write_text(text)
        resume = None
        with warnings.catch_warnings():
            for text in ("You are using 'rollout_func'", "'pin_memory' argument is set as true"):
                warnings.filterwarnings("ignore", text, UserWarning)
            for at, meddle in [*interruptions, ("nowhere", crash)]:
                if interruptions and at == "nowhere":
                    damage(RunDirectory.find(path / "runs", "tiny"))
                with suppress(Crash):
                    run_training(
                        resolve(load_config(path / "agent.yaml"), load_plugins()),
                        resume=resume,
                        reporter=Meddling(at, meddle),
                    )
                resume = "latest"
        finished.append(RunDirectory.find(path / "runs", "tiny"))
    return finished


def test_an_interrupted_run_ends_with_the_same_adapter_to_the_last_bit(runs: list[RunDirectory]) -> None:
    whole, interrupted = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in runs]
    assert whole == interrupted


def test_it_went_on_from_the_checkpoint_before_the_damaged_one(runs: list[RunDirectory]) -> None:
    _, interrupted = runs
    assert (interrupted.checkpoints / "damaged-checkpoint-2").is_dir()
    assert (interrupted.checkpoints / "checkpoint-2" / "optimizer.pt").stat().st_size > len(b"cut")


def test_its_metrics_are_the_same(runs: list[RunDirectory]) -> None:
    whole, interrupted = [[timeless(line) for line in run.read_metrics()] for run in runs]
    assert [line["step"] for line in whole] == [1, 2, 3, 4]
    assert whole == interrupted


def test_its_episodes_are_the_same_and_none_is_there_twice(runs: list[RunDirectory]) -> None:
    def played(run: RunDirectory) -> Counter[str]:
        return Counter(f"{item.id}: {item.final_text}" for item in run.read_trajectories())

    whole, interrupted = map(played, runs)
    assert whole == interrupted
    assert set(whole.values()) == {1}


def test_its_measurements_are_the_same(runs: list[RunDirectory]) -> None:
    whole, interrupted = [run.read_report()["early_stopping"] for run in runs]
    assert list(whole["rewards"]) == ["0", "2", "4"]
    assert whole == interrupted


def test_the_report_says_on_which_tasks_weights_were_chosen(runs: list[RunDirectory]) -> None:
    run, _ = runs
    report = run.read_report()
    chosen = {item.task.id for item in run.read_trajectories() if item.id.startswith("step-")}
    others = {item.task.id for item in run.read_trajectories() if not item.id.startswith("step-")}
    assert report["early_stopping"]["split"] == "train, held back"
    assert len(chosen) == 4
    assert not chosen & others, "chosen by what was neither trained on nor reported"


def test_a_model_that_cannot_be_saved_is_refused_before_anything_is_played(
    heavy: None, tiny_model_path: Path, tmp_path: Path
) -> None:
    from grpo_host.training.from_yaml import run_training

    model = shutil.copytree(tiny_model_path, tmp_path / "model")
    (model / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.5}')
    text = AGENT.format(model=model, save_every=2, output=tmp_path / "runs")
    (tmp_path / "agent.yaml").write_text(text.replace("lora: {dropout: 0.1}", "lora: null"))
    with pytest.raises(RunError, match=r"could not be saved .*`temperature`.* Mend that and begin again"):
        run_training(
            resolve(load_config(tmp_path / "agent.yaml"), load_plugins()), reporter=Reporter(quiet=True)
        )
    assert not list(RunDirectory.find(tmp_path / "runs", "tiny").read_trajectories())
