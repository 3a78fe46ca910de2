"""Why episodes have no reward, and when so many have none that it is no use to go on."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from grpo_sdk.errors import RunError
from grpo_sdk.trajectory import Trajectory


class FailureLimit:
    """Ends what plays episodes after ``most`` in a row without a reward; None: never."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._failed: deque[Trajectory] = deque(maxlen=most)
        self._said = False

    def begin(self) -> None:
        """Groups are begun, of which the first that is one too many says so: others end with it."""
        self._said = False

    def see(self, trajectory: Trajectory) -> None:
        """Raises ``RunError`` if this is one too many."""
        if self._most is None or self._said:
            return
        if trajectory.reward is not None:
            self._failed.clear()
            return
        self._failed.append(trajectory)
        if len(self._failed) == self._most:
            self._said = True
            raise RunError(
                f"{self._most} episodes in a row have no reward (rollouts.max_consecutive_failures); what "
                f"failed most: {most_frequent_failure(self._failed)}. Mend it and run again "
                "(a training: with --resume)"
            )


def most_frequent_failure(trajectories: Iterable[Trajectory]) -> str | None:
    """Why most of the ``trajectories`` without a reward have none; None if all have one."""
    causes = Counter(_cause(item) for item in trajectories if item.reward is None)
    return causes.most_common(1)[0][0] if causes else None


def _cause(trajectory: Trajectory) -> str:
    if trajectory.error:
        return trajectory.error
    errors = [f"reward {name}: {part.error}" for name, part in trajectory.rewards.items() if part.error]
    return next(iter(errors), trajectory.stop_reason)
