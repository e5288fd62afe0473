"""Which positions of a sequence each rank has, and in which order it keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import index

from pellucid.tensors.once import once

Spans = tuple[range, ...]  # stretches of positions, in the order in which a rank keeps them


@dataclass(frozen=True)
class Layout:
    """The stretches of a sequence that each rank has: of all ranks together every position once.

    Made by `even`, `head_tail`, `documents` or `of_lengths`, or by hand of ranges.

    Attributes:
        spans: of each rank, its ranges of positions in the order in which it keeps them.

    Raises:
        TypeError: something else than ranges.
        ValueError: a range with a step, or positions that are missing or in two places.

    """

    spans: tuple[Spans, ...]

    def __post_init__(self) -> None:
        spans = tuple(tuple(own) for own in self.spans)
        object.__setattr__(self, "spans", spans)
        for span in (span for own in spans for span in own):
            if not isinstance(span, range):
                raise TypeError(f"layout: ranges of positions are needed, got {type(span).__name__}")
            if span.step != 1:
                raise ValueError(f"layout: ranges without a step are needed, got {span}")
        stop = 0
        for span in self._in_order:
            if span.start != stop:
                fault = "are missing" if span.start > stop else "are in two places"
                raise ValueError(f"layout: positions {min(stop, span.start)} to {max(stop, span.start) - 1} {fault}")
            stop = span.stop

    @once
    def _in_order(self) -> list[range]:
        return sorted((span for own in self.spans for span in own if len(span)), key=lambda span: span.start)

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.spans)

    @once
    def length(self) -> int:
        """Positions of the whole sequence."""
        return sum(self.lengths)

    @once
    def lengths(self) -> tuple[int, ...]:
        """Positions of each rank."""
        return tuple(sum(map(len, own)) for own in self.spans)

    @once
    def pieces(self) -> list[tuple[int, int, range]]:
        """The stretches in the order of the sequence: whose each is, where it begins there, and its positions."""
        found = []
        for rank, own in enumerate(self.spans):
            start = 0
            for span in own:
                if len(span):
                    found.append((rank, start, span))
                start += len(span)
        return sorted(found, key=lambda piece: piece[2].start)


def _whole_numbers(name: str, numbers: Iterable[int], least: int = 0) -> list[int]:
    """The numbers. Raises TypeError and ValueError, naming the argument, for what no length or count is."""
    found = []
    for number in numbers:
        try:
            found.append(index(number))
        except TypeError:
            raise TypeError(f"{name}: whole numbers are needed, got {number!r}") from None
        if found[-1] < least:
            raise ValueError(f"{name}: {least} or more is needed, got {number}")
    return found


def of_lengths(lengths: Iterable[int]) -> Layout:
    """One stretch a rank, one after another, of these lengths."""
    spans, start = [], 0
    for length in _whole_numbers("lengths", lengths):
        spans.append((range(start, start + length),))
        start += length
    return Layout(tuple(spans))


def even(length: int, ranks: int) -> Layout:
    """One stretch a rank, one after another, as torch.chunk cuts and DTensor's Shard: the last may be shorter."""
    _whole_numbers("length", [length]), _whole_numbers("ranks", [ranks], 1)
    size = -(-length // ranks) if length else 0
    return of_lengths(max(0, min(size, length - rank * size)) for rank in range(ranks))


def head_tail(length: int, ranks: int) -> Layout:
    """Two stretches a rank, one from the front and its mirror from the back: causal work is the same for each.

    As torch's `context_parallel` cuts, but of any length.
    """
    return documents([length], ranks)


def documents(lengths: Sequence[int], ranks: int) -> Layout:
    """Of each of several documents, packed into one row, two stretches a rank, as `head_tail` of it alone.

    Args:
        lengths: of the documents, in the order in which they are packed.
        ranks: how many ranks there are.

    """
    _whole_numbers("ranks", [ranks], 1)
    spans: list[list[range]] = [[] for _ in range(ranks)]
    first = 0
    for length in _whole_numbers("lengths", lengths):
        cuts = [first + length * part // (2 * ranks) for part in range(2 * ranks + 1)]
        for rank, own in enumerate(spans):
            own += [range(cuts[part], cuts[part + 1]) for part in (rank, 2 * ranks - 1 - rank)]
        first += length
    return Layout(tuple(_joined(own) for own in spans))


BY_NAME = {"contiguous": even, "head_tail": head_tail}  # of a length and ranks


def named(argument: str, name: str) -> Callable[[int, int], Layout]:
    """What makes the layout that is called so, of a length and ranks. Raises ValueError, naming the argument."""
    if name not in BY_NAME:
        raise ValueError(f"{argument}: a Layout or one of {', '.join(BY_NAME)} is needed, got {name!r}")
    return BY_NAME[name]


def _joined(spans: list[range]) -> Spans:
    """Without empty ranges, and neighbours as one."""
    made: list[range] = []
    for span in filter(len, spans):
        if made and made[-1].stop == span.start:
            made[-1] = range(made[-1].start, span.stop)
        else:
            made.append(span)
    return tuple(made)
