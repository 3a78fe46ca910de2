"""The keys and values of a batch: rows of unequal length that join, grow, leave, and are found again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens that a layer has memory for beyond those it holds: how many steps until it is copied again."""

States = list[tuple[Tensor, Tensor]]
"""Of each layer, keys and values: (heads, tokens, size of a head) of one row, (rows, heads, …) of several."""


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Writes new tokens behind those that are there; transformers' own copies all of them each time."""

    def __init__(self, rooms: tuple[Tensor, Tensor] | None = None, tokens: int = 0) -> None:
        super().__init__()
        self.rooms = rooms
        if rooms is not None:
            self.lazy_initialization(*rooms)
            self.show(rooms[0].size(0), tokens)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held, rows = self.get_seq_length(), key_states.size(0)
        length = held + key_states.size(-2)
        if self.rooms is None or length > self.rooms[0].size(-2):
            new = _room(key_states[0], rows, length), _room(value_states[0], rows, length)
            if held:
                new[0][:, :, :held], new[1][:, :, :held] = self.keys, self.values
            self.rooms = new
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[:rows, :, held:length] = states
        self.show(rows, length)
        return self.keys, self.values

    def show(self, rows: int, tokens: int) -> None:
        """Hold the first ``rows`` and ``tokens`` of what there is memory for."""
        assert self.rooms is not None
        self.keys, self.values = (room[:rows, :, :tokens] for room in self.rooms)


class KeyValues:
    """The keys and values of a batch's rows. ``mask`` (rows, tokens) is 0 for padding."""

    def __init__(self, device: Any, layers: Sequence[_Layer] = (), mask: Tensor | None = None) -> None:
        self.cache = DynamicCache()
        self.cache.layers = list(layers)
        self.cache.layer_class_to_replicate = _Layer
        self.mask = torch.zeros((0, 0), dtype=torch.long, device=device) if mask is None else mask

    @classmethod
    def beginning(cls, device: Any, rows: Sequence[tuple[States, int] | None]) -> KeyValues:
        """A batch of rows that begin with the first tokens of states; None: with nothing."""
        lengths = [0 if row is None else row[1] for row in rows]
        width = max(lengths)
        known = next((row[0] for row in rows if row is not None), None)
        if known is None or not width:
            return cls(device)
        rooms = [tuple(_room(states, len(rows), width) for states in both) for both in known]
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            for layer, both in enumerate(rooms):
                for which, room in enumerate(both):
                    room[place, :, : width - length] = 0  # what is masked must be finite
                    if row is not None:
                        room[place, :, width - length : width] = row[0][layer][which][:, :length]
        mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths], device=device)
        return cls(device, [_Layer((both[0], both[1]), width) for both in rooms], mask)

    @classmethod
    def gathered(cls, parts: Sequence[tuple[KeyValues, Sequence[int]]]) -> KeyValues:
        """A batch of these rows of others, in this order; one may be named again."""
        rows = [(part, place) for part, places in parts for place in places]
        starts = {id(part): part.mask.argmax(dim=1).tolist() for part, _ in parts}  # the first that is real
        begins = [starts[id(part)][place] for part, place in rows]
        width = max(part.mask.size(1) - start for (part, _), start in zip(rows, begins, strict=True))
        sample = parts[0][0].cache.layers
        rooms = [
            (_room(layer.keys[0], len(rows), width), _room(layer.values[0], len(rows), width))
            for layer in sample
        ]
        mask = rows[0][0].mask.new_zeros(len(rows), width)
        for number, ((part, place), start) in enumerate(zip(rows, begins, strict=True)):
            at = width - part.mask.size(1) + start
            mask[number, at:] = part.mask[place, start:]
            for both, layer in zip(rooms, part.cache.layers, strict=True):
                for room, states in zip(both, (layer.keys, layer.values), strict=True):
                    room[number, :, :at] = 0  # what is masked must be finite
                    room[number, :, at:width] = states[place, :, start:]
        return cls(mask.device, [_Layer(both, width) for both in rooms], mask)

    def extend(self, mask: Tensor) -> Tensor:
        """Say which of the tokens that come next (rows, tokens) are real. Returns their positions."""
        before = self.mask.sum(dim=1, keepdim=True) if self.mask.numel() else 0
        self.mask = torch.cat([self.mask, mask], dim=1) if self.mask.numel() else mask
        positions: Tensor = (before + mask.cumsum(dim=1) - 1).clamp(min=0)
        return positions

    def row(self, place: int) -> States:
        """A copy of one row's, without padding."""
        real = self.mask[place].nonzero().squeeze(1)
        return [
            (layer.keys[place].index_select(1, real), layer.values[place].index_select(1, real))
            for layer in self.cache.layers
        ]

    def remove(self, place: int) -> None:
        """Let a row go; the last one takes its place, so that nothing else is moved."""
        last = len(self.mask) - 1
        if place != last:
            self.mask[place] = self.mask[last]
        self.mask = self.mask[:last]
        for layer in self.cache.layers:
            if place != last:
                layer.keys[place], layer.values[place] = layer.keys[last], layer.values[last]
            layer.show(last, layer.get_seq_length())


def _room(states: Tensor, rows: int, tokens: int) -> Tensor:
    """Memory for the states of rows like ``states`` (heads, …, size)."""
    return states.new_empty(rows, states.size(0), tokens + ROOM, states.size(-1))


class Prefixes:
    """Keys and values of what was computed lately, at most ``gib`` of memory: an episode's next turn,
    and every task with the same instructions, begin with tokens that need no second pass."""

    def __init__(self, gib: float) -> None:
        self._most = int(gib * 2**30)
        self._bytes = 0
        self._held: OrderedDict[tuple[int, ...], States] = OrderedDict()

    def clear(self) -> None:
        """Forget all: the weights are others."""
        self._held.clear()
        self._bytes = 0

    def longest(self, prompt: Sequence[int]) -> tuple[States, int] | None:
        """What is held of the beginning of ``prompt``, and of how many tokens; never of the last one."""
        wanted = tuple(prompt[:-1])
        best, length = None, 0
        for ids in self._held:
            found = _common(ids, wanted, length)
            if found > length:
                best, length = ids, found
        if best is None:
            return None
        self._held.move_to_end(best)
        return self._held[best], length

    def add(self, ids: Sequence[int], states: Callable[[], States]) -> None:
        """Hold the states of ``ids`` in place of those of their beginning."""
        if not self._most:
            return
        key, held = tuple(ids), states()
        self._drop(*[known for known in self._held if known == key[: len(known)]])
        self._held[key] = held
        self._bytes += _size(held)
        while self._bytes > self._most:
            self._drop(next(iter(self._held)))

    def _drop(self, *ids: tuple[int, ...]) -> None:
        for key in ids:
            self._bytes -= _size(self._held.pop(key))


def _size(states: States) -> int:
    return sum(tensor.nbytes for both in states for tensor in both)


def _common(one: tuple[int, ...], other: tuple[int, ...], beyond: int) -> int:
    """How many ids both begin with; 0 if no more than ``beyond``."""
    low, high = beyond, min(len(one), len(other))
    if high <= beyond or one[: beyond + 1] != other[: beyond + 1]:
        return 0
    while low < high:  # both begin with the same ``low`` ids
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
