"""The environment reasoning_gym: tasks of the library of that name, which makes and checks them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Literal

from grpo_environments.splits import is_held_out, require_between
from grpo_sdk.blocking import call_blocking
from grpo_sdk.deadline import Deadline
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.errors import MissingExtraError, did_you_mean
from grpo_sdk.messages import Message, assistant, system, user
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task


class ReasoningGymEnvironment(Environment):
    """Poses tasks of reasoning-gym's generators; what stands in the last <answer> is checked by the library.

    Each generator is a kind of task, with metrics of its own. ``outcome``: ``success`` (the library's score
    is 1), ``score``, ``answer`` (None if there were no tags). The score is the step's reward too: name the
    reward ``environment`` to learn from it.
    """

    def __init__(
        self,
        *,
        generators: dict[str, float] | list[str],
        options: dict[str, dict[str, Any]] | None = None,
        levels: int = 0,
        prompt: Literal["default", "simple", "direct", "chain_of_draft", "DeepSeekZero"] = "default",
        train_tasks: int = 256,
        held_out_tasks: int = 64,
        seconds: float = 5.0,
        task_seed: int = 0,
    ) -> None:
        """Set the options.

        ``generators``: their names, such as gcd, each with its weight if you like: its share of the tasks.
        ``options``: of a generator's own configuration, by its name. ``levels``: of the library's curricula,
        from the easiest; the tasks are divided among them, and the curriculum ``raise_level`` takes one
        after the other. 0: as the generator is set. ``prompt``: which of the library's system prompts.
        ``seconds``: time limit of a check. ``task_seed``: other tasks. Raises ``ValueError`` for one that
        does not fit, ``MissingExtraError`` without the library.
        """
        require_between("train_tasks", train_tasks, 1, 1_000_000)
        require_between("held_out_tasks", held_out_tasks, 0, 100_000)
        require_between("levels", levels, 0, 20)
        weights = dict(generators) if isinstance(generators, Mapping) else dict.fromkeys(generators, 1.0)
        self._options = options or {}
        _check(weights, self._options, levels)
        self._weights, self._levels, self._prompt = weights, levels, prompt
        self._seconds, self._seed = seconds, task_seed
        self._counts = (train_tasks, held_out_tasks)
        self._name = ""
        self._dataset: Any = None
        self._entry: dict[str, Any] = {}
        self._outcome: dict[str, Any] = {"success": False}

    def tasks(self, split: str) -> Sequence[Task]:
        total = self._counts[is_held_out(split)]
        whole = sum(self._weights.values())
        columns = []
        for name, weight in self._weights.items():
            count = max(1, round(total * weight / whole)) if total else 0
            columns.append([self._task(name, split, index) for index in range(count)])
        return [task for row in zip_longest(*columns) for task in row if task is not None]

    def _task(self, name: str, split: str, index: int) -> Task:
        seed = derive_seed("reasoning_gym", self._seed, split) % 2**31
        data: dict[str, Any] = {"generator": name, "index": index, "seed": seed}
        if self._levels:
            data["level"] = index % self._levels
        return Task(f"{split}-{name}-{index:04d}", data, split, kind=name)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._name = task.data["generator"]
        self._dataset, self._entry = await call_blocking(self._made, task)
        return Observation([system(_library().utils.SYSTEM_PROMPTS[self._prompt]), user(self._question)])

    async def step(self, action: Message) -> StepResult:
        answer = _library().utils.extract_answer(action["content"])
        limit = Deadline(self._seconds)
        try:
            with limit:
                score = float(await call_blocking(self._dataset.score_answer, answer, self._entry))
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"{self._name} did not score an answer within {self._seconds:g} s") from None
        self._outcome = {"success": score >= 1.0, "score": score, "answer": answer}
        return StepResult(done=True, outcome=self._outcome, reward=score)

    def outcome(self) -> dict[str, Any]:
        return self._outcome

    def demonstrations(self, split: str) -> Sequence[list[Message]]:
        """Dialogues that give the library's answer in its tags, without a thought before it."""
        shown = []
        for task in self.tasks(split):
            _, entry = self._made(task)
            prompt = _library().utils.SYSTEM_PROMPTS[self._prompt]
            answer = assistant(f"<answer>{entry['answer']}</answer>")
            shown.append([system(prompt), user(str(entry["question"])), answer])
        return shown

    @property
    def _question(self) -> str:
        return str(self._entry["question"])

    def _made(self, task: Task) -> tuple[Any, dict[str, Any]]:
        """The generator of ``task``, and its entry: question, answer and what the check needs."""
        name, level = task.data["generator"], task.data.get("level")
        options = json.dumps(self._options.get(name, {}), sort_keys=True)
        dataset = _dataset(name, level, task.data["seed"], options)
        return dataset, dataset[task.data["index"]]


@lru_cache(maxsize=256)
def _dataset(name: str, level: int | None, seed: int, options: str) -> Any:
    library = _library()
    values = {"seed": seed, "size": 1_000_000, **json.loads(options)}
    if level is None:
        return library.create_dataset(name, **values)
    curriculum = library.factory.create_curriculum(name)
    for attribute in curriculum.attributes.values():
        curriculum.set_attr_level(attribute.name, min(level, len(attribute.levels) - 1))
    config = curriculum.generate_configuration(values)
    return library.factory.DATASETS[name][0](config=config)


def _check(weights: Mapping[str, float], options: Mapping[str, Any], levels: int) -> None:
    if not weights:
        raise ValueError("generators: name at least one, such as gcd")
    library = _library()
    known = list(library.factory.DATASETS)
    for name in (*weights, *options):
        if name not in known:
            raise ValueError(f'generators: reasoning-gym has no "{name}".{did_you_mean(name, known)}')
        if levels and not library.factory.has_curriculum(name):
            raise ValueError(f'levels: "{name}" has no curriculum; set levels to 0')
    if unused := [name for name in options if name not in weights]:
        raise ValueError(f'options: "{unused[0]}" is not among the generators')
    if wrong := [name for name, weight in weights.items() if not weight > 0]:
        raise ValueError(f'generators: the weight of "{wrong[0]}" is {weights[wrong[0]]}; give more than 0')


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        import reasoning_gym
        import reasoning_gym.factory
        import reasoning_gym.utils
    except ImportError as problem:
        raise MissingExtraError(
            "the environment reasoning_gym", "reasoning_gym", "reasoning-gym"
        ) from problem
    return reasoning_gym
