"""Pack documents into rows of one length, without any of them seeing another.

N rows, T slots of a row, B rows of a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from rljax.tasks.order import batch_indices

TooLong = Literal["drop", "truncate", "split"]


class Document(NamedTuple):
    """One text as tokens, and which of them are learnt."""

    tokens: Sequence[int]
    learnt: Sequence[bool]
    """Per token: whether predicting it counts. The first one never does: nothing stands before."""


class Packed(NamedTuple):
    """Rows of packed documents; padding stands at the end of a row."""

    tokens: np.ndarray
    """[B, T] int32."""
    segments: np.ndarray
    """[B, T] int32: number of the document within its row, from 1; 0 on padding."""
    targets: np.ndarray
    """[B, T] bool: true where predicting this token, from those before it, counts."""


@dataclasses.dataclass(frozen=True)
class PackedData:
    """All rows of a data set."""

    rows: Packed
    """Arrays [N, T]."""
    documents: int
    """Documents in them (pieces of documents, where long ones are split)."""

    def __len__(self) -> int:
        return len(self.rows.tokens)

    @property
    def filled(self) -> float:
        """Share of the slots that hold tokens."""
        return float(np.mean(self.rows.segments > 0))

    def batch(self, step: int, *, batch_size: int, seed: int) -> Packed:
        """Return the rows of a training step: a pure function of seed and step."""
        indices = batch_indices(step, size=len(self), batch_size=batch_size, seed=seed)
        return Packed(*(array[indices] for array in self.rows))

    def batches(self, batch_size: int) -> Iterator[Packed]:
        """Yield all rows in order; the last batch is filled up with empty rows."""
        for start in range(0, len(self), batch_size):
            chosen = [array[start : start + batch_size] for array in self.rows]
            missing = batch_size - len(chosen[0])
            yield Packed(*(np.pad(array, ((0, missing), (0, 0))) for array in chosen))


def fit_lengths(
    documents: Sequence[Document], length: int, too_long: TooLong
) -> tuple[list[Document], int]:
    """Make every document fit into `length` tokens; return them and how many were too long.

    drop: leave out the long ones; truncate: keep their beginning; split: cut them into pieces,
    each a document of its own. Documents (and pieces) without a learnt token are left out.
    """
    fitting: list[Document] = []
    long = 0
    for tokens, learnt in documents:
        long += len(tokens) > length
        if len(tokens) > length and too_long == "drop":
            continue
        end = length if too_long == "truncate" else len(tokens)
        for start in range(0, end, length):
            stop = min(start + length, end)
            if any(learnt[start + 1 : stop]):
                fitting.append(Document(tokens[start:stop], learnt[start:stop]))
    return fitting, long


def best_fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Distribute items over bins of `length`: longest first, each into the fullest bin with room.

    Best-fit decreasing, as Ding et al. 2024 (https://arxiv.org/abs/2404.10830) pack documents.
    Returns the items' indices bin by bin. Raises ValueError for an item that fits into no bin.
    """
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 1)]
    rooms = 0  # bit r is set where a bin has room r left
    for index in order:
        size = int(sizes[index])
        if not 0 < size <= length:
            raise ValueError(f"an item of {size} fits into no bin of {length}")
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, chosen = length, len(bins)
            bins.append([])
        bins[chosen].append(index)
        by_room[room - size].append(chosen)
        rooms |= 1 << (room - size)
    return bins


def pack(documents: Sequence[Document], length: int) -> PackedData:
    """Pack documents of at most `length` tokens each.

    Raises ValueError without documents, and for one that is empty or too long.
    """
    if not documents:
        raise ValueError("there is no document to pack")
    bins = best_fit([len(document.tokens) for document in documents], length)
    tokens = np.zeros((len(bins), length), np.int32)
    segments = np.zeros((len(bins), length), np.int32)
    targets = np.zeros((len(bins), length), np.bool_)
    for row, chosen in enumerate(bins):
        slot = 0
        for number, index in enumerate(chosen, start=1):
            document = documents[index]
            stop = slot + len(document.tokens)
            tokens[row, slot:stop] = document.tokens
            segments[row, slot:stop] = number
            targets[row, slot + 1 : stop] = document.learnt[1:]
            slot = stop
    return PackedData(Packed(tokens, segments, targets), len(documents))
