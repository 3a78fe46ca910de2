"""A training run from agent.yaml to adapter and report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_host.agent import Agent
from grpo_host.assembly import Assembly, assemble
from grpo_host.chart import save_chart, sparkline, terminal_chart
from grpo_host.evaluation import evaluate
from grpo_host.loop import LoopThread
from grpo_host.progress import Reporter
from grpo_host.run_directory import RunDirectory, write_text
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_host.versions import describe_run
from grpo_sdk.trajectory import Task

if TYPE_CHECKING:
    from grpo_host.config.load import LoadedConfig
    from grpo_host.plugins import Registry
    from grpo_host.training.policy import Policy

WARM_START = "warm-start"
"""The adapter after the warm start, beside the checkpoints."""


def run_training(
    loaded: LoadedConfig,
    registry: Registry,
    *,
    resume: str | None = None,
    reporter: Reporter | None = None,
) -> int:
    """Train as ``loaded`` says, in a new run directory or in the one that ``resume`` names.

    Returns the exit code: 0, or 128 + signal where a signal ended it; it can then be resumed.
    Raises ``GrpoError`` for everything a user can act on.
    """
    with ExitStack() as stack:
        reporter = reporter or Reporter()
        config = loaded.config
        if resume is None:
            directory = RunDirectory.create(Path(config.output), config.name)
            write_text(directory.agent_yaml, describe_run(loaded, registry))
        else:
            directory = RunDirectory.find(Path(config.output), config.name, resume).acquire()
        stack.callback(directory.release)
        reporter.line(f"run {directory.path}")
        interrupt = stack.enter_context(Interrupt().listening(reporter.line))
        loop = LoopThread()
        stack.callback(loop.close)
        run = TrainingRun(loaded, registry, directory, loop, reporter, interrupt)
        stack.callback(run.close)
        with suppress(StopTraining):
            run.execute()
        if interrupt.requested:
            reporter.line(f"stopped; go on with: grpo-host run {loaded.path} --resume")
        return interrupt.exit_code


class TrainingRun:
    """The phases of one run; each leaves its result in the directory and is skipped on resume."""

    def __init__(
        self,
        loaded: LoadedConfig,
        registry: Registry,
        directory: RunDirectory,
        loop: LoopThread,
        reporter: Reporter,
        interrupt: Interrupt,
    ) -> None:
        self.config = loaded.config
        self.registry = registry
        self.directory = directory
        self.loop = loop
        self.reporter = reporter
        self.interrupt = interrupt
        self.report: dict[str, Any] = directory.read_report()
        self.seconds: dict[str, float] = dict(self.report.get("seconds", {}))
        self.assembly: Assembly = assemble(loaded.config, registry, progress=reporter.line)

    def close(self) -> None:
        """Stop the backend and close the rewards."""
        self.loop.run(self.assembly.close())

    def execute(self) -> None:
        """All phases in order. Raises ``StopTraining`` after a signal."""
        from grpo_host.training.callbacks import latest_checkpoint, remove_incomplete

        remove_incomplete(self.directory.checkpoints)
        checkpoint = latest_checkpoint(self.directory.checkpoints)
        with self._timed("start"), self.reporter.phase("loading the model"):
            agent = self.loop.run(self.assembly.start(), check=self.interrupt.check)
            policy = self._load_policy(checkpoint)
        self._evaluate_once("before", agent, policy)
        if self.config.training.warm_start and checkpoint is None:
            self._warm_start_once(agent, policy)
        finished = self._train(agent, policy, checkpoint)
        self.interrupt.check()
        if finished:
            policy.save_adapter(self.directory.adapter)
            self._evaluate_once("after", agent, policy)
            self._finish()

    def _load_policy(self, checkpoint: Path | None) -> Policy:
        from grpo_host.training.policy import load_policy

        spec = self.assembly.backend.model
        if spec.path is None:
            raise ValueError("a trainable backend has a local model")
        warm = self.directory.checkpoints / WARM_START
        adapter = checkpoint or (warm if warm.is_dir() else spec.adapter)
        return load_policy(
            spec.path,
            dtype=spec.dtype,
            lora=self.config.training.lora,
            adapter=adapter,
            seed=self.config.seed,
        )

    def _evaluate_once(self, name: str, agent: Agent, policy: Policy) -> None:
        """Evaluate on held-out tasks, unless the report already has ``name``."""
        settings = self.config.evaluation
        if name in self.report or settings.episodes == 0:
            return
        with self._timed("evaluation"):
            self.loop.run(policy.sync(agent.backend), check=self.interrupt.check)
            tasks = self.assembly.tasks(settings.split)[: settings.episodes]
            with self.reporter.phase(f"evaluating ({name})", len(tasks)) as advance:
                evaluation, _ = self.loop.run(
                    evaluate(
                        self.assembly.engine(
                            self.assembly.evaluating(agent), [self.directory.append_trajectory]
                        ),
                        tasks,
                        seed=self.config.seed,
                        split=settings.split,
                        label=name,
                        policy_version=policy.version,
                        on_episode=advance,
                    ),
                    check=self.interrupt.check,
                )
        self.reporter.line(f"{name}: {evaluation}")
        self._report(**{name: evaluation.as_dict(), "held_out": settings.split == "held_out"})

    def _warm_start_once(self, agent: Agent, policy: Policy) -> None:
        from grpo_host.training.warm_start import demonstrations, tokenize, warm_start

        settings = self.config.training.warm_start
        target = self.directory.checkpoints / WARM_START
        if settings is None:
            return
        if not target.is_dir():
            with self._timed("warm_start"):
                environment = self.assembly.parts.environment()
                dialogues = demonstrations(environment, settings, seed=self.config.seed)
                tools = self.loop.run(self.assembly.sample_tools())
                sequences = tokenize(agent, dialogues, tools)
                self._report(warm_start_demonstrations=len(sequences))
                with self.reporter.phase("warm start", silent=True) as advance:

                    def on_step(step: int, of: int, loss: float) -> None:
                        advance()
                        if step % 10 == 0 or step == of:
                            self.reporter.line(f"warm start {step}/{of}: loss {loss:.3f}")

                    warm_start(
                        policy,
                        sequences,
                        settings,
                        directory=self.directory.checkpoints / "warm-start-trainer",
                        seed=self.config.seed,
                        micro_batch=self.config.training.micro_batch,
                        on_step=on_step,
                        check=self.interrupt.check,
                    )
                policy.save_adapter(target)
        self._evaluate_once("warm_start", agent, policy)

    def _train(self, agent: Agent, policy: Policy, checkpoint: Path | None) -> bool:
        from grpo_host.training.grpo import GrpoRollouts, task_order, train_grpo

        training = self.config.training
        first_step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        self.directory.truncate_metrics(first_step)
        if first_step >= training.steps:
            return True
        tasks: Sequence[Task] = self.assembly.tasks("train")
        order = task_order(tasks, training.steps, training.tasks_per_step, seed=self.config.seed)
        observers = [self.directory.append_trajectory, self.registry.notify_episode]
        rollouts = GrpoRollouts(
            engine=self.assembly.engine(agent, observers),
            policy=policy,
            loop=self.loop,
            reporter=self.reporter,
            interrupt=self.interrupt,
            order=order,
            group_size=training.group_size,
            seed=self.config.seed,
        )
        with self._timed("training"), self.reporter.phase("training", training.steps, silent=True) as advance:
            return train_grpo(
                self.config,
                rollouts,
                self.directory,
                resume_from=checkpoint,
                first_step=first_step,
                show=self._show(advance),
                state=lambda: {"policy_version": policy.version, "seed": self.config.seed},
            )

    def _show(self, advance: Callable[[], None]) -> Callable[[int, Mapping[str, Any]], None]:
        rewards: list[float] = [
            line["reward"] for line in self.directory.read_metrics() if line.get("reward") is not None
        ]

        def show(step: int, line: Mapping[str, Any]) -> None:
            advance()
            if line.get("reward") is not None:
                rewards.append(line["reward"])
            self.reporter.line(describe_step(line, self.config.training.steps, rewards))
            self.registry.notify_step(step, line)

        return show

    def _finish(self) -> None:
        lines = self.directory.read_metrics()
        steps = [line["step"] for line in lines]
        names = [reward.name for reward in self.config.rewards]
        curves: dict[str, Sequence[float | None]] = {"reward": [line.get("reward") for line in lines]}
        for name in names if len(names) > 1 else []:
            curves[name] = [line.get(f"rewards/{name}/mean") for line in lines]
        save_chart(self.directory.path / "reward.svg", steps, curves)
        self._report(steps=self.config.training.steps)
        self.reporter.line(terminal_chart([v for v in curves["reward"] if v is not None]))
        before, after = self.report.get("before"), self.report.get("after")
        if before and after and before["reward"] and after["reward"]:
            self.reporter.line(
                f"mean {before['split']} reward {before['reward']['mean']:.3f} → "
                f"{after['reward']['mean']:.3f} in {self.config.training.steps} steps"
            )
        self.reporter.line(f"adapter {self.directory.adapter}")

    def _report(self, **values: Any) -> None:
        self.report.update(values, seconds={k: round(v, 2) for k, v in self.seconds.items()})
        self.directory.write_json(self.directory.report, self.report)

    def _timed(self, phase: str) -> _Timer:
        return _Timer(self.seconds, phase)


class _Timer:
    """Adds the seconds of a block to ``seconds[phase]``, also where the block is left by an error."""

    def __init__(self, seconds: dict[str, float], phase: str) -> None:
        self._seconds, self._phase = seconds, phase

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        elapsed = time.perf_counter() - self._started
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + elapsed


def describe_step(line: Mapping[str, Any], steps: int, rewards: Sequence[float]) -> str:
    """One step's line of metrics as a person wants it: reward, its parts, speed, phases."""
    reward = line.get("reward")
    parts = [
        f"{key.split('/')[1]} {value:.2f}"
        for key, value in line.items()
        if key.startswith("rewards/") and key.endswith("/mean") and value is not None
    ]
    timing = [
        f"{key.removeprefix('seconds/')} {value:.1f} s"
        for key, value in line.items()
        if key.startswith("seconds/")
    ]
    return (
        f"step {line['step']:>3}/{steps}  "
        f"reward {'none' if reward is None else f'{reward:.3f}'} {sparkline(rewards[-20:])}  "
        f"{' '.join(parts)}  "
        f"{line.get('rollouts/tokens_per_second', 0):.0f} tok/s  {' '.join(timing)}"
    )
