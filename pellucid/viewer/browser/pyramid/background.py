"""The thread that computes maps while nobody waits, what was asked for last before everything else."""

from __future__ import annotations

import atexit
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pellucid.record.layer import Layer
from pellucid.record.record import Record
from pellucid.record.stored import StoredRecord
from pellucid.viewer.browser.pyramid.jobs import Job, Pyramid, Wholes
from pellucid.viewer.browser.pyramid.shown import Shown
from pellucid.viewer.browser.pyramid.store import Store, store_of

PATIENCE = 20.0  # seconds: maps that nobody has asked for since then are not gone on with, but for the last
GIVES_WAY = 0.25  # seconds at most that a stripe waits for requests to be answered
MOST_HELD = 64  # maps of which the files stay open


class Background:
    """The maps of some records that are, or will be, there without anybody's waiting."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[object, ...], Job] = {}
        self._stores: dict[int, tuple[Record, Store]] = {}
        self._layers: dict[
            int, tuple[Layer, str]
        ] = {}  # those in memory, kept, and so their ids, with a name of its own
        self._changed = threading.Condition()
        self._waiting = 0  # requests that compute
        self._thread: threading.Thread | None = None
        self._closed = False

    def pyramid(self, record: Record, shown: Shown, pool: str) -> Pyramid:
        """The pyramid of a map, which is begun if it is not there."""
        pools = "both" if len(shown.heads) == 1 else (shown.over, pool)
        key = (id(record), self._fingerprint(record, shown.whole), shown.sequence, shown.heads, pools)
        made = lambda: Pyramid(self._store(record), self._fingerprint(record, shown.whole), shown, pool)  # noqa: E731
        job = self._job(key, made)
        assert isinstance(job, Pyramid)
        return job

    def wholes(self, record: Record, layer: Layer, sequence: int) -> Wholes:
        """The whole maps of a layer's heads, which are begun if they are not there."""
        made = lambda: Wholes(self._store(record), self._fingerprint(record, layer), layer, sequence)  # noqa: E731
        job = self._job((id(record), self._fingerprint(record, layer), sequence), made)
        assert isinstance(job, Wholes)
        return job

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Have the thread wait a little inside the `with`: somebody waits for an answer."""
        with self._changed:
            self._waiting += 1
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """End the thread, and leave nothing unfinished behind; whoever asks then begins anew."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            atexit.unregister(self.close)
        for job in self._jobs.values():
            job.close()
        self._jobs, self._stores, self._thread, self._closed = {}, {}, None, False

    def _store(self, record: Record) -> Store:
        if id(record) not in self._stores:
            self._stores[id(record)] = record, store_of(record)  # which keeps the record, and so its id
        return self._stores[id(record)][1]

    def _fingerprint(self, record: Record, layer: Layer) -> str:
        """What tells a layer from any other, also from one that took its place in a record in memory."""
        of_file = record.fingerprint(layer.name) if isinstance(record, StoredRecord) else None
        return of_file or self._layers.setdefault(id(layer), (layer, uuid.uuid4().hex))[1]

    def _job(self, key: tuple[object, ...], make: Callable[[], Job]) -> Job:
        with self._changed:
            job = self._jobs.get(key)
            if job is None or (job.failure is not None and time.monotonic() - job.asked > PATIENCE):
                job = self._jobs[key] = make()
                self._drop()
            if self._thread is None and not job.is_done:
                self._thread = threading.Thread(target=self._run, name="pellucid maps", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._changed.notify_all()
            return job

    def _drop(self) -> None:
        done = sorted((job.asked, key) for key, job in self._jobs.items() if job.is_done)
        for _, key in done[:-MOST_HELD]:
            del self._jobs[key]

    def _run(self) -> None:
        while (job := self._next()) is not None:
            job.try_step()

    def _next(self) -> Job | None:
        """The map to go on with, once there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._waiting, GIVES_WAY)
            while not self._closed:
                if (job := self._wanted()) is not None:
                    return job
                self._changed.wait()
        return None

    def _wanted(self) -> Job | None:
        """What was asked for last of what is to be done; nothing, where that is long ago and other maps came since."""
        newest = max((job.asked for job in self._jobs.values()), default=0.0)
        open_ = [job for job in self._jobs.values() if not job.is_done and job.failure is None]
        job = max(open_, key=lambda job: job.asked, default=None)
        return job if job is not None and job.asked > min(newest, time.monotonic() - PATIENCE) - 1e-9 else None
