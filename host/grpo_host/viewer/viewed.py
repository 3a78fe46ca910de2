"""The runs that a viewer may show, by their ids, and their indexes, kept up by one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

from grpo_host.runs.run import Run, find_runs
from grpo_host.viewer.index import Index
from grpo_host.viewer.search import Advantages
from grpo_sdk.errors import RunError

logger = logging.getLogger("grpo_host.viewer")
LOOK_AGAIN = 1.0
"""Seconds after which directories are searched for new runs."""
MOMENT = 2.0
"""Seconds that a question waits for the index; a small run's is made by then."""


class ViewedRun:
    """A run, and its index."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.index = Index(run.path)
        self.refreshed: Future[bool] | None = None
        """Done once the index has been brought up to date; whether all that there was is in it."""

    @property
    def advantages(self) -> Advantages:
        return Advantages(self.run.config.get("training") or {})

    def is_whole(self, wait: float = MOMENT) -> bool:
        """Whether all that there was when one asked is in the index, after at most ``wait`` seconds."""
        try:
            done = self.refreshed is not None and self.refreshed.result(wait)
        except (TimeoutError, CancelledError):
            return False
        return done or self.index.progress().share == 1.0


class Viewed:
    """What lies in ``places``; nothing else can be named.

    ``trace_url`` is where a trace can be looked at, with ``{trace_id}`` in it.
    """

    def __init__(self, places: Sequence[Path], trace_url: str | None = None) -> None:
        self.places = [place.absolute() for place in places]
        self.trace_url = trace_url
        self._known: dict[Path, ViewedRun] = {}
        self._by_id: dict[str, ViewedRun] = {}
        self._looked = float("-inf")
        self._looking = threading.Lock()
        self._indexing = ThreadPoolExecutor(1, thread_name_prefix="grpo-index")
        self._stop = threading.Event()

    def all(self, anew: bool = False) -> dict[str, ViewedRun]:
        """By id, those that began last first; ``anew``: also those of the last second."""
        with self._looking:
            if anew or time.monotonic() - self._looked > LOOK_AGAIN:
                runs = {run.path: run for place in self.places for run in find_runs(place)}
                names = Counter(path.name for path in runs)
                known = {path: self._known.get(path) or ViewedRun(run) for path, run in runs.items()}
                self._known = known
                self._by_id = {
                    path.name if names[path.name] == 1 else f"{path.parent.name}~{path.name}": viewed
                    for path, viewed in known.items()
                }
                self._looked = time.monotonic()
            return self._by_id

    def find(self, run_id: str) -> ViewedRun:
        """The run ``run_id``, whose index is being brought up to date. Raises ``RunError``."""
        viewed = self.all().get(run_id) or self.all(anew=True).get(run_id)
        if viewed is None:
            raise RunError(f"there is no run {run_id}")
        self.keep_up(viewed)
        return viewed

    def keep_up(self, viewed: ViewedRun) -> None:
        """Index what is new, in the background."""
        if (viewed.refreshed is None or viewed.refreshed.done()) and not self._stop.is_set():
            viewed.refreshed = self._indexing.submit(self._refresh, viewed)

    def close(self) -> None:
        """Stop indexing; what is indexed is kept."""
        self._stop.set()
        self._indexing.shutdown(wait=True, cancel_futures=True)

    def _refresh(self, viewed: ViewedRun) -> bool:
        try:
            return viewed.index.refresh(self._stop)
        except Exception:
            logger.exception("the trajectories of %s cannot be indexed", viewed.run.path)
            return False
