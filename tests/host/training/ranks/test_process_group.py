from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.plugins import load_plugins
from grpo_host.runs.directory import RunDirectory
from grpo_host.training.ranks.process_group import (
    Ranks,
    is_main_process,
    join_ranks,
    launched_ranks,
    python_module,
)
from grpo_sdk import ConfigError
from grpo_sdk.backend import Capability

WEIGHTS = """
import hashlib, itertools, os, sys
from pathlib import Path
from grpo_host.training.policy import Policy
from grpo_host.training.training_run import TrainingRun

finish = TrainingRun._finish

def tell(self):
    digest = hashlib.sha256()
    for name, parameter in sorted(self.policy.model.named_parameters()):
        if parameter.requires_grad:
            digest.update(parameter.detach().float().numpy().tobytes())
    Path(os.environ["TELL"], os.environ["RANK"]).write_text(digest.hexdigest())
    finish(self)

TrainingRun._finish = tell
load = TrainingRun._load_policy

def spoil(self, checkpoint):
    # The first gradient of one rank is not finite.
    policy = load(self, checkpoint)
    if os.environ["RANK"] == "1":
        factors = itertools.chain([float("inf")], itertools.repeat(1.0))
        parameter = next(p for p in policy.model.parameters() if p.requires_grad)
        parameter.register_hook(lambda gradient: gradient * next(factors))
    return policy

TrainingRun._load_policy = spoil
from grpo_host.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_process_alone_is_the_only_rank():
    ranks = join_ranks()
    assert (ranks.rank, ranks.size, ranks.main) == (0, 1, True)
    assert ranks.gather([1, 2]) == [1, 2]
    assert ranks.broadcast("x") == "x"
    assert ranks.any(True)
    assert not ranks.any(False)


LAUNCHED = {
    "WORLD_SIZE": "4",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def launched(monkeypatch):
    """Sets what torchrun sets, but for ``changes``; None: not set."""

    def set(**changes):
        for name, value in {**LAUNCHED, **changes}.items():
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    return set


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"WORLD_SIZE": ""}, 'WORLD_SIZE is "", and no whole number from 1 on'),
        ({"WORLD_SIZE": "two"}, 'WORLD_SIZE is "two", and no whole number from 1 on'),
        ({"WORLD_SIZE": "0"}, 'WORLD_SIZE is "0", and no whole number from 1 on'),
        ({"RANK": None}, "WORLD_SIZE is 4, and RANK is not set"),
        ({"RANK": "4"}, "RANK is 4, of WORLD_SIZE 4, counted from 0"),
        ({"RANK": "-1"}, 'RANK is "-1", and no whole number from 0 on'),
        ({"LOCAL_RANK": ""}, "WORLD_SIZE is 4, and LOCAL_RANK is not set"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE is 4, and MASTER_ADDR is not set"),
        ({"MASTER_PORT": "x"}, 'MASTER_PORT is "x", and no whole number from 0 on'),
        ({"WORLD_SIZE": None}, "RANK is set, and WORLD_SIZE is not"),
        ({"WORLD_SIZE": None, "RANK": None}, "LOCAL_RANK is set, and WORLD_SIZE is not"),
        (
            {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": None},
            "WORLD_SIZE is 1, and MASTER_ADDR is not set",
        ),
    ],
)
def test_leftovers_of_a_cluster_are_errors_that_name_the_variable(launched, changes, what):
    launched(**changes)
    with pytest.raises(ConfigError) as error:
        join_ranks()
    assert str(error.value).startswith(
        f"the environment variable {what}. To train in one process, unset it; "
    )
    assert is_main_process(), "it is the one that says it"


def test_a_process_without_a_launcher_is_alone(launched):
    launched(**dict.fromkeys(LAUNCHED))
    assert launched_ranks() == 1
    launched(**{**dict.fromkeys(LAUNCHED), "WORLD_SIZE": "1"})
    assert launched_ranks() == 1


def test_torchruns_number_of_ranks_is_known(launched):
    launched()
    assert not is_main_process()
    assert launched_ranks() == 4
    with pytest.raises(ConfigError, match=r"training\.world_size is 2, and 4 processes were started"):
        join_ranks(2)


@pytest.mark.model
@pytest.mark.parametrize("how", ["time.sleep(20)", "os.kill(os.getpid(), 9)"], ids=["stuck", "killed"])
def test_a_rank_that_does_not_come_is_noticed_by_the_others(tmp_path, how):
    pytest.importorskip("torch")
    code = (
        "import datetime, os, sys, time; from grpo_host.training.ranks import process_group as group; "
        "group.WAIT = datetime.timedelta(seconds=2); ranks = group.join_ranks(); assert ranks.any(True);"
        f"{how} if ranks.rank else ranks.gather([1])"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env={**os.environ, **LAUNCHED, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port},
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        said = ranks[0].communicate(timeout=60)[1]
    finally:
        ranks[1].kill()
        ranks[1].communicate()
    assert "RuntimeError: rank 0 of 2 does not hear from the others: one has died" in said
    assert ranks[0].returncode == 1


def test_only_rank_0_is_the_main_one():
    assert [Ranks(rank, 2).main for rank in (0, 1)] == [True, False]


def test_the_backends_say_which_of_them_work_in_one_of_several_ranks():
    offers = load_plugins().offers("backend")
    able = {offer.name for offer in offers if Capability.RANKS in offer.factory.capabilities}
    assert able == {"transformers", "vllm_server"}


def run_directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.find(tmp_path / "runs", "tiny")


def environment(tmp_path):
    return {**os.environ, "OMP_NUM_THREADS": "1", "TELL": str(tmp_path)}


@pytest.mark.model
@pytest.mark.slow
def test_two_ranks_of_torchrun_share_the_work_and_keep_equal_weights(agent_yaml, tmp_path):
    path = agent_yaml(1)
    main = tmp_path / "main.py"
    main.write_text(WEIGHTS)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(main), "run", str(path)],
        capture_output=True, text=True, timeout=240, env=environment(tmp_path),
    )  # fmt: skip
    output = done.stdout + done.stderr

    assert done.returncode == 0, output
    told = [(tmp_path / str(rank)).read_text() for rank in (0, 1)]
    assert told[0] == told[1], "the weights differ"
    began = [line for line in done.stdout.splitlines() if line.startswith("run /")]
    assert len(began) == 1, "only rank 0 prints"
    run = run_directory(tmp_path)
    played = list(run.read_trajectories())
    trained = [t for t in played if t.id[0].isdigit()]
    assert len(trained) == 2 * 2 * 4, "the trajectories of both ranks"
    assert len({t.id for t in trained}) == len(trained)
    assert len([t for t in played if t.id.startswith("after/")]) == 3
    lines = run.read_metrics()
    assert [line["rollouts/episodes"] for line in lines] == [8, 8]
    assert [line["update/skipped_nonfinite"] for line in lines] == [1, 0], "all skip what one cannot use"
    report = json.loads(run.report.read_text())
    assert report["before"]["episodes"] == report["after"]["episodes"] == 3
    assert (run.adapter / "adapter_model.safetensors").is_file()


@pytest.mark.model
@pytest.mark.slow
def test_world_size_starts_ranks_and_a_signal_saves_a_checkpoint(agent_yaml, tmp_path):
    path = agent_yaml(2)
    command = python_module("grpo_host.cli", "run", str(path), "--set", "training.steps=60")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(tmp_path)
    )
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("step   2/"):
            break
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=120)

    assert process.returncode == 128 + signal.SIGTERM, "".join(seen) + rest
    run = run_directory(tmp_path)
    assert list(run.checkpoints.glob("checkpoint-*/grpo_state.json")), rest
    resumed = subprocess.run(
        [*python_module("grpo_host.cli", "run", str(path), "--resume"), "--set", "training.steps=3"],
        capture_output=True, text=True, timeout=240, env=environment(tmp_path),
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr


DEADLY = """
import os
from pathlib import Path
from grpo_sdk import reward

died, scored = Path(__file__).with_name("died"), []


@reward
def short(trajectory):
    scored.append(trajectory)
    # In its second step, once.
    if os.environ["RANK"] == "1" and len(scored) == 6 and not died.exists():
        died.touch()
        os.kill(os.getpid(), 9)
    return -len(trajectory.final_text) / 100
"""


@pytest.mark.model
@pytest.mark.slow
def test_a_rank_that_is_killed_costs_its_step_alone(agent_yaml, tmp_path):
    from safetensors.numpy import load_file

    path = agent_yaml(2)
    (tmp_path / "deadly.py").write_text(DEADLY)
    text = path.read_text().replace("{name: length, options: {low: 1, high: 2}}", "./deadly.py:short")
    path.write_text(text)
    weights = []
    for name in ("killed", "whole"):
        output = tmp_path / name
        done = subprocess.run(
            [
                *python_module("grpo_host.cli", "run", str(path), "--set", f"output={output}"),
                *("--set", "training.max_restarts=1", "--set", "training.save_every=1"),
                *("--set", "evaluation.episodes=0"),
            ],
            capture_output=True, text=True, timeout=240, env=environment(tmp_path),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        (run,) = (output / "tiny").iterdir()
        assert [line["step"] for line in RunDirectory(run).read_metrics()] == [1, 2]
        weights.append(load_file(run / "adapter" / "adapter_model.safetensors"))
    assert (tmp_path / "died").exists()
    killed, whole = weights
    for weight, expected in whole.items():
        # A step that was lost or doubled moves every weight; what shares a batch rounds a few otherwise.
        assert abs(killed[weight] - expected).mean() < 1e-5, weight
