"""The phases of a training run: evaluation, warm start, GRPO, evaluation again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_host.assembly.from_yaml import build_curriculum
from grpo_host.assembly.runtime import Assembly, sample_tools
from grpo_host.backends.event_loop import Runner
from grpo_host.backends.wrapper import innermost
from grpo_host.rollouts.engine import Observer, RolloutMetrics
from grpo_host.rollouts.episode import EpisodeAgent
from grpo_host.rollouts.evaluation import Evaluation, evaluate, summarise
from grpo_host.rollouts.overlong import OVERLONG, OverlongPenalty
from grpo_host.rollouts.scoring import WeightedReward
from grpo_host.runs.diagnosis import Diagnosis
from grpo_host.runs.directory import RunDirectory
from grpo_host.training.devices import compute_deterministically
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_host.training.ranks.process_group import Ranks
from grpo_host.training.report import Timer, describe_step, draw_curves, next_commands
from grpo_host.training.transcripts import Transcript, compare, transcripts
from grpo_host.utils.progress import Reporter
from grpo_sdk.backend import Capability
from grpo_sdk.errors import RunError
from grpo_sdk.trajectory import Task

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig
    from grpo_host.config.schema import AgentConfig
    from grpo_host.training.early_stopping import EarlyStopping
    from grpo_host.training.policy import Policy

WARM_START = "warm-start"
"""The adapter after the warm start, beside the checkpoints."""


class TrainingRun:
    """The phases of one run; each leaves its result in the directory and is skipped on resume."""

    def __init__(
        self,
        config: AgentConfig,
        assembly: Assembly,
        directory: RunDirectory,
        loop: Runner,
        reporter: Reporter,
        interrupt: Interrupt,
        resolved: ResolvedConfig | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.config = config
        self.assembly = assembly
        self.directory = directory
        self.loop = loop
        self.reporter = reporter
        self.interrupt = interrupt
        self.registry = resolved.registry if resolved else None
        """Its plugins hear of episodes and steps."""
        self.curriculum = build_curriculum(resolved) if resolved else None
        self.ranks = ranks or Ranks()
        self.policy: Policy | None = None
        self.report: dict[str, Any] = directory.read_report()
        self.seconds: dict[str, float] = dict(self.report.get("seconds", {}))

    def close(self) -> None:
        """Stop the backend and close the rewards."""
        self.loop.run(self.assembly.close())

    def execute(self) -> None:
        """All phases in order. Raises ``StopTraining`` after a signal."""
        self.report.pop("error", None)  # of the time before it is resumed
        try:
            self._execute()
        except StopTraining:
            self._report()  # how long it took until here
            raise
        except Exception as problem:
            with suppress(RunError):  # the disk may be full
                self._report(error=f"{type(problem).__name__}: {problem}")
            raise

    def _execute(self) -> None:
        from grpo_host.training.checkpoints import whole_checkpoint

        checkpoint: Path | None = None
        if self.ranks.main:
            checkpoint = whole_checkpoint(self.directory.checkpoints, self.reporter.line)
        checkpoint = self.ranks.broadcast(checkpoint)
        updates = self.config.training.iterations * self.config.training.minibatches
        first_step = int(checkpoint.name.rpartition("-")[2]) // updates if checkpoint else 0
        if self.ranks.main:
            self.directory.forget_after(first_step, self._measured(first_step))
        if self.config.deterministic:
            compute_deterministically()
        with self._timed("start"), self.reporter.phase("loading the model"):
            agent = self._start_backend()
            policy = self.policy = self._load_policy(checkpoint)
        if self.ranks.main:
            self.directory.checkpoints.mkdir(exist_ok=True)
            policy.try_saving(self.directory.checkpoints)
        if self.config.evaluation.before and self._is_untrained(checkpoint):
            self._evaluate_once("before", agent, policy)
        if self.config.training.warm_start and checkpoint is None:
            self._warm_start_once(agent, policy)
        finished = self._train(agent, policy, checkpoint, first_step)
        self.interrupt.check_together()
        if finished:
            policy.save(self.result)
            if self.config.evaluation.after:
                self._evaluate_once("after", agent, policy)
            self._finish()

    def _start_backend(self) -> EpisodeAgent:
        """Start the backend: where ranks share an engine, rank 0 starts it and the others use it."""
        backend = self.assembly.backend
        engine, training = innermost(backend), self.config.training
        engine.directory = self.directory.path
        # A measurement between two steps has a version of its own.
        engine.max_staleness = training.max_staleness * (2 if training.early_stopping else 1)
        shared = self.ranks.size > 1 and Capability.ADAPTER_SYNC in backend.capabilities
        if shared and not self.ranks.main:
            backend.connect(self.ranks.broadcast({}))
        agent = self.loop.run(self.assembly.start(), check=self.interrupt.check)
        if shared and self.ranks.main:
            self.ranks.broadcast(dict(backend.connection()))
        return agent

    @property
    def result(self) -> Path:
        """Where the trained adapter, or the whole model, is put."""
        return self.directory.adapter if self.config.training.lora else self.directory.whole_model

    def _measured(self, step: int) -> set[str]:
        """The evaluations that were finished up to ``step``; all others are played anew."""
        steps = self.report.get("early_stopping", {}).get("rewards", {})
        return set(self.report) | {_measurement(int(at)) for at in steps if int(at) <= step}

    def _is_untrained(self, checkpoint: Path | None) -> bool:
        """Whether the weights are those that the run began with; only then can they still be measured."""
        return checkpoint is None and not (self.directory.checkpoints / WARM_START).is_dir()

    @property
    def _start(self) -> Path | None:
        """The weights that GRPO begins with, if they are not new."""
        warm = self.directory.checkpoints / WARM_START
        return warm if warm.is_dir() else self.assembly.backend.model.adapter

    def _load_policy(self, checkpoint: Path | None) -> Policy:
        from grpo_host.training.checkpoints import read_state

        policy = self._policy_at(checkpoint or self._start)
        if checkpoint is not None:
            policy.version = read_state(checkpoint)["policy_version"]
        return policy

    def _reference(self) -> Policy:
        """What the KL penalty is against, as a policy of its own."""
        return self._policy_at(self._start if self.config.training.reference == "start" else None)

    def _policy_at(self, weights: Path | None) -> Policy:
        """The model with ``weights``, or as it is."""
        from grpo_host.training.policy import load_policy

        spec = self.assembly.backend.model
        if spec.path is None:
            raise ValueError("a trainable backend has a local model")
        training = self.config.training
        return load_policy(
            spec.path,
            dtype=self.config.model.dtype,
            lora=training.lora,
            adapter=weights,
            seed=self.config.seed,
            mixed_precision=training.mixed_precision,
            load_in=training.load_in,
            hub_id=spec.hub_id,
            ranks=self.ranks,
        )

    def _evaluate_once(self, name: str, agent: EpisodeAgent, policy: Policy) -> None:
        """Evaluate, unless the report already has ``name``."""
        if name in self.report or self.config.evaluation.episodes == 0:
            return
        self.interrupt.check_together()
        split = self.config.evaluation.split
        evaluation, conversations = self._measure(name, agent, policy, split, self.assembly.tasks(split))
        self.reporter.line(f"{name}: {evaluation}")
        measured = {**evaluation.as_dict(), "conversations": conversations}
        self._report(**{name: measured, "held_out": split == "held_out"})

    def _measure(
        self, label: str, agent: EpisodeAgent, policy: Policy, split: str, tasks: Sequence[Task]
    ) -> tuple[Evaluation, list[Transcript]]:
        """Play the first of ``tasks`` with the weights as they are, each rank its share.

        Gives what was measured, and the first conversations.
        """
        from grpo_host.training.trl.rollouts import gather_played

        settings = self.config.evaluation
        observers: list[Observer] = [self.directory.append_trajectory] if self.ranks.main else []
        with self._timed("evaluation"):
            self.loop.run(policy.sync(agent.backend), check=self.interrupt.check)
            own = tasks[: settings.episodes][self.ranks.rank :: self.ranks.size]
            with self.reporter.phase(f"evaluating ({label})", len(own)) as advance:
                evaluation, played = self.loop.run(
                    evaluate(
                        self.assembly.engine(self.assembly.evaluating(agent), observers),
                        own,
                        seed=self.config.seed,
                        split=split,
                        label=label,
                        policy_version=policy.version,
                        on_episode=advance,
                    ),
                    check=self.interrupt.check,
                )
            if self.ranks.size == 1:
                return evaluation, transcripts(tasks, played)
            metrics = RolloutMetrics(seconds=evaluation.seconds)
            everyone = gather_played(played, self.ranks, observers)
            for trajectory in everyone:
                metrics.add(trajectory)
            return summarise(everyone, split, metrics), transcripts(tasks, everyone)

    def _warm_start_once(self, agent: EpisodeAgent, policy: Policy) -> None:
        from grpo_host.training.warm_start import demonstrating, demonstrations, tokenize, warm_start

        settings = self.config.training.warm_start
        target = self.directory.checkpoints / WARM_START
        if settings is None:
            return
        if not self.ranks.broadcast(target.is_dir()):
            with self._timed("warm_start"):
                sequences = []
                for environment in demonstrating(self.assembly.parts.environment(), settings):
                    imitated = demonstrations(environment, settings, seed=self.config.seed)
                    tools = self.loop.run(sample_tools(environment))
                    dialogues = [demonstration.messages for demonstration in imitated]
                    sequences += self.loop.run(tokenize(agent, dialogues, tools))
                    if self.ranks.main:
                        self.directory.write_demonstrations(
                            {"id": item.id, "trace": item.trace} for item in imitated if item.id
                        )
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
                        ranks=self.ranks.size,
                        gradient_checkpointing=self.config.training.gradient_checkpointing,
                    )
                policy.save(target)
                if self.ranks.sharded:  # the next trainer spreads a model that is whole
                    self.ranks.broadcast(None)
                    policy.model = self._policy_at(target).model
        if self.config.evaluation.before:
            self._evaluate_once("warm_start", agent, policy)

    def _train(self, agent: EpisodeAgent, policy: Policy, checkpoint: Path | None, first_step: int) -> bool:
        from grpo_host.training.checkpoints import read_state
        from grpo_host.training.task_order import TaskOrder
        from grpo_host.training.telemetry import training_telemetry
        from grpo_host.training.trl.grpo import train_grpo
        from grpo_host.training.trl.rollouts import GrpoRollouts

        training = self.config.training
        early, tasks = self._early_stopping(agent, policy, first_step)
        if first_step >= training.steps or (early and early.stopped_at is not None):
            if early:
                early.restore_best(first_step)
            return True
        observers: list[Observer] = []
        if self.ranks.main:
            observers = [self.directory.append_trajectory]
            observers += [self.registry.notify_episode] if self.registry else []
        order = TaskOrder(
            tasks,
            training.tasks_per_step,
            seed=self.config.seed,
            weights={use.label: use.weight for use in self.config.environments},
            curriculum=self.curriculum,
        )
        order.begin(first_step, read_state(checkpoint).get("tasks") if checkpoint else None)
        rollouts = GrpoRollouts(
            engine=self.assembly.engine(agent, observers, shaping_rewards(self.config)),
            policy=policy,
            loop=self.loop,
            reporter=self.reporter,
            interrupt=self.interrupt,
            training=training,
            order=order,
            seed=self.config.seed,
            ranks=self.ranks,
            observers=observers,
        )
        with self._timed("training"), self.reporter.phase("training", training.steps, silent=True) as advance:
            try:
                finished = train_grpo(
                    self.config,
                    rollouts,
                    self.directory,
                    resume_from=checkpoint,
                    first_step=first_step,
                    start=self._start,
                    reference=self._reference,
                    show=self._show(advance),
                    state=lambda step: {
                        "policy_version": policy.version,
                        "seed": self.config.seed,
                        "tasks": order.state(step),
                    },
                    early=early,
                    telemetry=training_telemetry(training.group_size) if self.ranks.main else None,
                )
            finally:
                rollouts.close()
        if finished and early:
            early.restore_best(early.stopped_at or training.steps)
        return finished

    def _early_stopping(
        self, agent: EpisodeAgent, policy: Policy, first_step: int
    ) -> tuple[EarlyStopping | None, Sequence[Task]]:
        """Early stopping, if it is asked for, and the tasks that are left to train on."""
        from grpo_host.training.early_stopping import EarlyStopping, choosing

        settings = self.config.training.early_stopping
        if settings is None:
            return None, self.assembly.tasks("train")
        chosen = choosing(
            self.assembly.parts.environment(),
            seed=self.config.seed,
            reported=self.config.evaluation.split,
        )

        def measure(step: int) -> float | None:
            evaluation, _ = self._measure(_measurement(step), agent, policy, chosen.split, chosen.tasks)
            self.reporter.line(f"after step {step}: {evaluation}")
            return evaluation.reward.mean if evaluation.reward else None

        early = EarlyStopping(
            settings,
            policy,
            self.directory.checkpoints,
            measure,
            lambda: self._report(early_stopping=early.as_dict()),
            split=chosen.split,
            last_step=self.config.training.steps,
            ranks=self.ranks,
            report=self.report.get("early_stopping"),
        )
        early.begin(first_step)
        return early, chosen.train

    def _show(self, advance: Callable[[], None]) -> Callable[[int, Mapping[str, Any]], None]:
        earlier = self.directory.read_metrics()
        rewards: list[float] = [line["reward"] for line in earlier if line.get("reward") is not None]
        diagnosis = Diagnosis({reward.label: reward.weight for reward in self.config.rewards})
        for line in earlier:
            diagnosis.look(line)
        self._report(warnings=diagnosis.warnings())

        def show(step: int, line: Mapping[str, Any]) -> None:
            advance()
            if line.get("reward") is not None:
                rewards.append(line["reward"])
            self.reporter.line(describe_step(line, self.config.training.steps, rewards))
            for found in diagnosis.look(line):
                self.reporter.line(f"{found.severity}: {found.message}")
                self._report(warnings=diagnosis.warnings())
            if self.registry:
                self.registry.notify_step(step, line)

        return show

    def _finish(self) -> None:
        if not self.ranks.main:
            return
        steps = draw_curves(self.directory, self.reporter)
        self._report(steps=steps)
        before, after = self.report.get("before"), self.report.get("after")
        if before and after and before["reward"] and after["reward"]:
            self.reporter.line(
                f"mean {before['split']} reward {before['reward']['mean']:.3f} → "
                f"{after['reward']['mean']:.3f} in {steps} steps"
            )
        for line in compare((before or {}).get("conversations", ()), (after or {}).get("conversations", ())):
            self.reporter.line(line)
        for line in next_commands(self.directory, self.result):
            self.reporter.line(line)

    def _report(self, **values: Any) -> None:
        self.report.update(values, seconds={k: round(v, 2) for k, v in self.seconds.items()})
        if self.ranks.main:
            self.directory.write_json(self.directory.report, self.report)

    def _timed(self, phase: str) -> Timer:
        return Timer(self.seconds, phase)


def shaping_rewards(config: AgentConfig) -> list[WeightedReward]:
    """What training adds to the rewards of ``config``, and no evaluation does."""
    training = config.training
    if not training.overlong_buffer:
        return []
    penalty = OverlongPenalty(config.sampling.max_tokens, training.overlong_buffer)
    return [WeightedReward(OVERLONG, penalty, training.overlong_penalty)]


def _measurement(step: int) -> str:
    """What early stopping's evaluation after ``step`` is called."""
    return f"step-{step}"
