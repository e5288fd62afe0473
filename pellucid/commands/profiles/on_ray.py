"""`pellucid profile --ray`: Ray Data reads the corpus and maps its blocks over actors, each with a model of its own.

What comes back of a block is its profile, as bytes, in any order: this process merges and keeps it. Ray starts an actor
that has died anew, and gives it its block again.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pellucid.commands.errors import InputError
from pellucid.profiles.corpus import Ranges
from pellucid.profiles.reading.texts import Texts
from pellucid.profiles.running.blocks import Block, Shard, blocks
from pellucid.profiles.running.keeping import Kept
from pellucid.profiles.running.run import Progress
from pellucid.profiles.running.work import Missed, Work, block_profile

LOCAL = "local"  # an address: a cluster of this machine, for this run
_ROWS = 1 << 16  # bytes that are handed on at once: about a block

Row = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """What an actor makes its model of."""

    model: str
    max_tokens: int | None
    work: Work


def run(
    given: Given,
    texts: Texts,
    kept: Kept,
    address: str,
    told: Callable[[Progress], object],
) -> tuple[int, Missed]:
    """Read on a cluster what is still to be read, and keep it; what `running.run` returns.

    Args:
        given: what an actor makes its model of.
        texts: the corpus.
        kept: what there is already, and where it is kept.
        address: of the cluster; LOCAL for one of this machine, which ends with the run.
        told: called after each block.

    Raises:
        InputError: ray is not installed, or there is no cluster at the address.

    """
    ray = _started(address)
    try:
        return _mapped(ray, given, texts, kept, told)
    finally:
        ray.shutdown()


def _started(address: str) -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise InputError("--ray: needs ray, which is not installed; pip install 'pellucid[ray]'") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # of the connection, which is another in each version
        raise InputError(f"--ray {address}: no cluster is there ({str(error).splitlines()[0]})") from error
    return ray


def _mapped(ray: Any, given: Given, texts: Texts, kept: Kept, told: Callable[[Progress], object]) -> tuple[int, Missed]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = _ROWS  # else many blocks are held back to be one
    done = kept.profile.corpora[0].done
    rows = (
        ray.data.from_items([{"texts": pickle.dumps((texts.path.resolve(), texts.field, texts.target_field))}])
        .map_batches(_blocks, batch_size=1, batch_format="numpy", fn_kwargs={"done": done}, num_cpus=0)
        .map_batches(
            Actor, batch_size=1, batch_format="numpy", fn_constructor_args=(given,), num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, int(ray.cluster_resources()["CPU"]))),
        )
    )  # fmt: skip
    total, share, missed = 0, 0.0, Missed()
    for row in rows.iter_rows():
        total, share = max(total, int(row["stop"])), max(share, float(row["share"]))
        part, reasons = pickle.loads(row["profile"])  # made by our own actors
        missed.reasons.update(reasons)
        if part is not None:
            kept.add(part)
        told(Progress(share, kept.done))
    if total:
        kept.end(total)
    return total, missed


def _blocks(batch: Row, done: Ranges) -> Iterator[Row]:
    """The corpus of a row, as a row a block."""
    given = pickle.loads(batch["texts"][0])  # made by this program
    texts = Texts(*given)
    for block in blocks(texts, Shard(), done):
        yield {"block": [pickle.dumps(tuple(block))]}


class Actor:
    """A model, loaded once, to which blocks are given."""

    def __init__(self, given: Given) -> None:
        from pellucid.commands.profiles.reader import load_reader

        self._work = given.work
        self._reader = load_reader(given.model, given.max_tokens, writes="target_field" in given.work.settings)

    def __call__(self, batch: Row) -> Row:
        """The profile of a block; None where it was done before."""
        block = Block(*pickle.loads(batch["block"][0]))
        missed = Missed()
        part = block_profile(self._work, self._reader, block, missed) if block.documents else None
        content = pickle.dumps((part, missed.reasons))
        return {"profile": [content], "stop": [block.stop], "share": [block.share]}
