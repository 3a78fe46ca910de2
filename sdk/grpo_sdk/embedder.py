"""What plugins ask of a sentence model. The host has one for each factory that takes an ``Embedder``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """Turns texts into vectors. Any thread may ask.

    A plugin's factory that has a parameter of this type (imported at run time) is given the installed
    sentence model; with ``Embedder | None = None`` it is made without one if none is installed.
    """

    @property
    def name(self) -> str:
        """Of the model and its settings: vectors of two names must not be compared."""

    @property
    def dimensions(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A float32 array of shape ``(len(texts), dimensions)``.

        Each row has length 1, so that the dot product of two is their cosine similarity; a text that
        says nothing has a row of zeros. Loads the model at the first call, and raises ``ModelError`` if it
        does not load.
        """
