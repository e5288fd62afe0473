"""The lesson in words: each step of self- or cross-attention in one sentence, with its formula, shape and numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text
from torch import Tensor

from pellucid.viewer.labels import axis_label
from pellucid.viewer.lesson.matrix import Matrix, SideBySide
from pellucid.viewer.lesson.steps import Lesson


@dataclass(frozen=True)
class Words:
    """What is said of one lesson; the steps that are the same in all of them are worded below.

    Attributes:
        title: what attends.
        introduction: what it does.
        tokens: what the rows of `x`, or of `context`, are.
        projection: what queries, keys and values are for.
        learned: where the numbers of the projections come from.
        query: the formula of the queries.
        key: that of the keys.
        value: that of the values.
        rows: what is said of how the weights are spread.

    """

    title: str
    introduction: str
    tokens: str
    projection: str
    learned: str
    query: str = "x @ W_q"
    key: str = "x @ W_k"
    value: str = "x @ W_v"
    rows: str = ""


SCORES = (
    "The dot product of each query with each key, divided by √{head_dim}: "
    "without that, wider vectors would sharpen the softmax."
)
WEIGHTS = "The softmax turns each row of scores into shares: none is negative, and each row sums to 1."
ATTENDED = "Each row of x receives the mean of all values, weighted by its row of weights."

_ROLES = "a query says what it looks for, a key what it can be found by, a value what it hands over."
_RANDOM = "A model learns what turns its tokens into queries, keys and values. Here these numbers are random too."
_LEARNED = "What turns tokens into the head's queries, keys and values, as the model has learned it."


_EVEN = (
    " They are nearly even here, and that is no fault: numbers between 0 and 1 are all of one sign, so every query "
    "scores every key much the same. Training makes projections that tell tokens apart; --scale 2 draws some that do."
)
_SHARP = (
    " Numbers on both sides of 0 score some keys high and others low, and the larger those of W_q and W_k, the fewer "
    "keys a row is left with."
)


def words_for_random_tokens(lesson: Lesson, seed: int, scale: float | None = None) -> Words:
    """The words for a lesson of `notebook_lessons`."""
    tokens, dim = lesson.tokens.shape
    drawn = "between 0 and 1" if scale is None else f"around 0, W_q and W_k scaled by {scale:g}"
    rows = _EVEN if scale is None else _SHARP
    if lesson.context is None:
        return Words(
            title="Self-attention",
            introduction="One sequence looks at itself: each token gathers what it needs from all of them.",
            tokens=f"x holds {_count(tokens, 'sample token')}, a row each: {_count(dim, 'random number')} "
            f"{drawn} (seed {seed}).",
            projection=f"Three projections give every token three roles: {_ROLES}",
            learned=_RANDOM,
            rows=rows,
        )
    return Words(
        title="Cross-attention",
        introduction="Two sequences: the queries come from one, keys and values from the other; all else stays.",
        tokens=f"x holds the same {_count(tokens, 'token')}; context holds the "
        f"{_count(len(lesson.context), 'token')} of a second sequence.",
        projection="The tokens of x ask and the context answers: only the queries are projected from x.",
        learned=_RANDOM,
        key="context @ W_k",
        value="context @ W_v",
        rows=rows,
    )


def words_for_reader(lesson: Lesson, head: int) -> Words:
    """The words for a lesson on the date reader's first layers."""
    length, width = lesson.tokens.shape
    if lesson.context is None:
        return Words(
            title=f"Self-attention: layer 0 of the encoder, head {head}",
            introduction="The text looks at itself: each character gathers what it needs from all characters.",
            tokens=f"x holds the text's {_count(length, 'character')} as the layer gets them: {width} numbers each.",
            projection="The head's learned projections give every character three roles: "
            f"{_ROLES} Queries and keys are then turned by their place, so that the order of characters counts.",
            learned=_LEARNED,
            query="turn(x @ W_q + b_q)",
            key="turn(x @ W_k + b_k)",
            value="x @ W_v + b_v",
        )
    return Words(
        title=f"Cross-attention: layer 0 of the decoder, head {head}",
        introduction="The answer looks at the text: each character written gathers what it needs from those read.",
        tokens=f"x holds {_count(length, 'place')} of the answer, labelled by the character written there ($ ends it); "
        f"context holds the text's {_count(len(lesson.context), 'character')} as the encoder left them.",
        projection="The answer asks and the text replies: only the queries are projected from x.",
        learned=_LEARNED,
        query="x @ W_q + b_q",
        key="context @ W_k + b_k",
        value="context @ W_v + b_v",
    )


def explanation(lesson: Lesson, words: Words) -> RenderableType:
    """The whole lesson, ready to print."""
    steps = [part for number, step in enumerate(_steps(lesson, words), start=1) for part in _numbered(number, *step)]
    return Group(Text(words.title, style="bold"), Text(words.introduction), *steps)


Step = tuple[str, str, RenderableType]


def _numbered(number: int, name: str, sentence: str, shown: RenderableType) -> list[RenderableType]:
    return [Text(), Text.assemble((f"{number}. {name}", "bold"), f"  {sentence}"), shown]


def _steps(lesson: Lesson, words: Words) -> Iterator[Step]:
    rows = [axis_label(label) for label in lesson.query_labels]
    keys = [axis_label(label) for label in lesson.key_labels]
    head_dim = lesson.query.shape[-1]

    sequences = [Matrix("x", lesson.tokens, rows)]
    if lesson.context is not None:
        sequences.append(Matrix("context", lesson.context, keys))
    yield "Tokens", words.tokens, SideBySide(sequences)

    projected = [
        Matrix(f"Q = {words.query}", lesson.query, rows),
        Matrix(f"K = {words.key}", lesson.key, keys),
        Matrix(f"V = {words.value}", lesson.value, keys),
    ]
    yield "Queries, keys, values", words.projection, Group(*_projections(lesson), SideBySide(projected))

    yield (
        "Scores",
        SCORES.format(head_dim=head_dim),
        SideBySide([Matrix(f"scores = Q @ K.T / √{head_dim}", lesson.scores, rows, keys)]),
    )
    yield (
        "Weights",
        f"{WEIGHTS}{words.rows}",
        SideBySide([Matrix("weights = softmax(scores)", lesson.weights, rows, keys, sums=True)]),
    )
    yield (
        "Attended",
        ATTENDED,
        SideBySide([Matrix("attended = weights @ V", lesson.attended, rows)]),
    )
    yield (
        "Agreement",
        "Weights and output above are the library's; this is how far they are at most from the formulas.",
        _differences(lesson),
    )


def _projections(lesson: Lesson) -> Iterator[RenderableType]:
    """The matrices that project, and below them what they add, if anything."""
    named = list(zip("qkv", lesson.projections, strict=True))
    yield SideBySide([Matrix(f"W_{name}", made.weight, _numbered_rows(made.weight)) for name, made in named])
    yield Text()
    biases = [Matrix(f"b_{name}", made.bias[None], [""]) for name, made in named if made.bias is not None]
    if biases:
        yield SideBySide(biases)
        yield Text()


def _numbered_rows(matrix: Tensor) -> list[str]:
    return [str(row) for row in range(len(matrix))]


def _differences(lesson: Lesson) -> Text:
    agreement = lesson.agreement()
    width = max(map(len, agreement))
    return Text("\n".join(f"  {name.ljust(width)}  {difference:.1e}" for name, difference in agreement.items()))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
