"""Bring files: a few at once, several connections for each, hashed while they grow.

Threads: ``connections`` workers take claims on missing bytes of whichever active file has the fewest of them.
For each active file one thread hashes and finishes, and one syncs. The caller's own thread only watches, so
that its progress callback may touch notebook widgets and Ctrl-C is heard at once.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from kimi_nb.engine.fetch.job import FileProgress, Job, Options, Progress, State, stop_if
from kimi_nb.engine.fetch.lock import Busy
from kimi_nb.engine.fetch.pace import Limiter, Meter, backoff_s
from kimi_nb.engine.fetch.part import Claim, PartFile
from kimi_nb.engine.fetch.running import PIECE, RunningHash
from kimi_nb.engine.fetch.source import Retry, Source
from kimi_nb.engine.fetch.trouble import came_wrong, disk_error, gave_up
from kimi_nb.engine.fetch.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kimi_nb.engine.fetch.manifest import Manifest
    from kimi_nb.errors import DownloadError

__all__ = ["Transfer"]

AT_ONCE = 8
MOST_TIMES = 3
COMMIT = 1024 * 1024
COMMIT_S = 1.0
ASK_S = 0.05
LOOK_S = 0.1
GRACE_S = 5.0


class Transfer:
    """Run jobs to their end.

    Args:
        manifest: Where the files come from.
        jobs: What to bring; a job whose file another process is bringing is waited for.
        token: For the Hub's own host.
        options: See there.
        source: What brings bytes.
        settled: Asked about a job that another process may have done meanwhile.
    """

    def __init__(
        self,
        manifest: Manifest,
        jobs: Sequence[Job],
        *,
        token: str | None,
        options: Options,
        source: Source,
        settled: Callable[[Job], bool],
    ) -> None:
        self._manifest, self._jobs, self._token, self._options = manifest, jobs, token, options
        self._source, self._settled = source, settled
        self._limiter = Limiter(options.limit_bytes_s)
        self._stop = threading.Event()
        self._over = threading.Event()
        self._turn = threading.Condition()
        self._wires: list[Wire] = []
        self._fatal: BaseException | None = None
        self._note = ""
        self._not_before = 0.0
        self._last_byte = time.monotonic()
        self._came = 0

    # ---- the caller's thread

    def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Bring every file, or raise the first reason why one could not be brought.

        What has come is kept whatever happens; running again continues. Once ``cancelled`` says yes, it ends
        with ``KeyboardInterrupt``.
        """
        meter, options = Meter(), self._options
        if all(job.ended for job in self._jobs):
            return
        works = [("fetch", self._connection)] * options.connections
        works += [("keep", self._keeper)] * min(AT_ONCE, len(self._jobs))
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"{name}-{number}", daemon=True)
            for number, (name, work) in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._over.wait(LOOK_S):
                stop_if(cancelled)
                if progress is not None:
                    progress(self._progress(meter))
        finally:
            self._end()
            until = time.monotonic() + GRACE_S
            for thread in threads:
                # One that hangs in a name look-up is left behind; it closes what it holds when it wakes.
                thread.join(max(0.0, until - time.monotonic()))
        if progress is not None:
            progress(self._progress(meter))
        failed = [job.error for job in self._jobs if job.error is not None]
        if self._fatal is not None or failed:
            raise self._fatal or failed[0]

    def _end(self) -> None:
        self._stop.set()
        self._over.set()
        self._source.abort()
        for wire in list(self._wires):
            wire.abort()
        self._wake()

    def _wake(self) -> None:
        with self._turn:
            self._turn.notify_all()

    def _progress(self, meter: Meter) -> Progress:
        files = tuple(FileProgress(job.file.path, job.file.size, job.here, job.state) for job in self._jobs)
        done, total = sum(file.done for file in files), sum(file.size for file in files)
        rate = meter.add(self._came)
        return Progress(done, total, rate, (total - done) / rate if rate else None, files, self._note)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            self._fatal = self._fatal or error
            self._end()

    # ---- a file's own thread: opens, hashes, finishes

    def _keeper(self) -> None:
        while not self._stop.is_set():
            with self._turn:
                job = next((job for job in self._jobs if job.state is State.WAITING), None)
                if job is None:
                    job = next((job for job in self._jobs if job.state is State.ELSEWHERE), None)
                    if job is None and all(other.ended for other in self._jobs):
                        return
                    self._turn.wait(LOOK_S)
                    if job is None or job.state is not State.ELSEWHERE:
                        continue
                job.state = State.CHECKING
            self._keep(job)

    def _set(self, job: Job, state: State) -> None:
        with self._turn:
            job.state = state
            if all(other.ended for other in self._jobs):
                self._over.set()
            self._turn.notify_all()

    def _keep(self, job: Job) -> None:
        try:
            part = PartFile(job.part_path, job.file.key, job.file.size, window=self._options.window)
        except Busy:
            self._note = f"another process is fetching {job.file.path}"
            self._set(job, State.DONE if self._settled(job) else State.ELSEWHERE)
            return
        except OSError as error:
            raise disk_error(error, job.part_path.parent, size=job.file.size) from error
        try:
            if self._settled(job):  # by another process, meanwhile
                part.discard()
                self._set(job, State.DONE)
                return
            job.part = part
            self._set(job, State.FETCHING)
            syncer = threading.Thread(
                target=self._guarded, args=(lambda: self._sync(job, part),), name="sync", daemon=True
            )
            syncer.start()
            try:
                self._follow(job, part)
            except OSError as error:
                raise disk_trouble(error, part) from error
            finally:
                with self._turn:
                    if job.state is State.FETCHING:
                        job.state = State.CHECKING  # stopped: no new claims
                    while job.connections:
                        self._turn.wait(LOOK_S)
                part.wake()
                syncer.join()
        finally:
            job.fetched, job.kept, job.part = job.fetched + part.fetched, part.here(), None
            part.close()

    def _follow(self, job: Job, part: PartFile) -> None:
        """Hash the file from its start as far as it is here, until it is whole; then judge it."""
        buffer = memoryview(bytearray(PIECE))
        hashed, running = 0, RunningHash(job.file, job.known)
        while not self._stop.is_set() and job.state is State.FETCHING:
            ready = part.prefix()
            if ready - hashed < PIECE and ready < part.size:
                part.wait(LOOK_S)
            elif hashed < part.size:
                count = part.read_into(hashed, buffer)
                bad = running.feed(buffer[:count])
                if bad:
                    part.forget(hashed, min(part.size, hashed + bad * PIECE))
                    self._wake()
                else:
                    hashed += count
            elif running.right:
                # In this order: whoever finds the file under its name finds the proof too.
                job.prove(running.marks, part.seal())
                part.finish(job.target)
                self._set(job, State.DONE)
            else:
                self._bad(job, part)
                hashed, running = 0, RunningHash(job.file, [])

    def _bad(self, job: Job, part: PartFile) -> None:
        job.wrong += 1
        if job.wrong >= MOST_TIMES:
            job.error = came_wrong(job.file.path, job.wrong)
            part.discard()
            self._set(job, State.FAILED)
            return
        self._note = f"{job.file.path} came wrong and is fetched again"
        part.forget(0, part.size)
        self._wake()

    def _sync(self, job: Job, part: PartFile) -> None:
        try:
            while job.state is State.FETCHING and not self._stop.is_set():
                if part.unsynced() >= part.window // 4 or part.starved:
                    part.sync()
                    self._wake()
                else:
                    part.wait(LOOK_S)
        except OSError as error:
            raise disk_trouble(error, part) from error

    # ---- a connection's thread

    def _connection(self) -> None:
        failures = 0
        with Wire(self._manifest.endpoint, self._token, timeout=self._options.timeout_s) as wire:
            self._wires.append(wire)
            rate = 0.0
            while (taken := self._take(rate)) is not None:
                job, part, claim = taken
                landing, began = _Landing(self, job, part, claim.start), time.monotonic()
                try:
                    retry = self._fetch(wire, job, claim, landing)
                finally:
                    self._release(job, part, claim)
                rate = (claim.stop - claim.start) / (time.monotonic() - began) if retry is None else 0.0
                if retry is None:
                    failures, self._note = 0, ""
                else:
                    failures = 0 if landing.came else failures + 1
                    self._wait(job, retry, failures)

    def _fetch(self, wire: Wire, job: Job, claim: Claim, landing: _Landing) -> Retry | None:
        try:
            self._source.fetch(wire, job.file, claim.start, claim.stop, landing)
        except Retry as retry:
            return retry
        finally:
            landing.commit()
        return None

    def _take(self, rate: float) -> tuple[Job, PartFile, Claim] | None:
        """Wait for something to fetch; ``None`` when there will be nothing more.

        Args:
            rate: Bytes a second that this connection brought last.
        """
        with self._turn:
            while not self._stop.is_set() and not all(job.ended for job in self._jobs):
                if (asked := self._not_before - time.monotonic()) > 0:  # Retry-After binds every connection
                    self._turn.wait(asked)
                    continue
                active = [job for job in self._jobs if job.state is State.FETCHING and job.part is not None]
                for job in sorted(active, key=lambda job: job.connections):
                    claim = self._claim(job, len(active), rate)
                    if claim is not None and job.part is not None:
                        job.connections += 1
                        return job, job.part, claim
                self._turn.wait(LOOK_S)
        return None

    def _claim(self, job: Job, active: int, rate: float) -> Claim | None:
        part = job.part
        if part is None:
            return None
        if not self._source.takes_ranges(job.file):
            return part.claim_rest()
        share = -(-self._options.connections // active)
        least, most = part.window // 8, part.window // 2
        # A request costs a round trip and some processor time, so a fast connection asks for more at once.
        return part.claim(max(least, most // share, min(most, int(rate * ASK_S))))

    def _release(self, job: Job, part: PartFile, claim: Claim) -> None:
        part.give_back(claim)
        with self._turn:
            job.connections -= 1
            self._turn.notify_all()

    def landed(self, count: int) -> None:
        """Account for bytes that came, and hold them back if there is a limit."""
        self._came += count
        self._last_byte = time.monotonic()
        self._limiter.take(count, self._stop)
        if self._stop.is_set():
            raise Retry("stopped")

    def _wait(self, job: Job, retry: Retry, failures: int) -> None:
        if self._stop.is_set():
            return
        now = time.monotonic()
        if retry.server and not retry.transient:
            job.refusals += 1
        most = self._options.refusals * self._options.connections
        if job.refusals > most or now - self._last_byte > self._options.patience_s:
            raise gave_up(job.file.path, retry.why)
        if retry.after is not None:
            self._not_before = max(self._not_before, now + retry.after)
        pause = backoff_s(failures, base=self._options.backoff_s) if failures else 0.0
        wait = max(self._not_before - now, pause)
        if wait > 0:
            self._note = f"{retry.why}; next try in {wait:.0f} s"
        self._stop.wait(wait)


def disk_trouble(error: OSError, part: PartFile) -> DownloadError:
    """Return the error for a disk that would not take a part's bytes."""
    return disk_error(error, part.path.parent, size=part.size, missing=part.size - part.here())


class _Landing:
    """Where a connection's bytes arrive: written at once, committed a piece at a time."""

    def __init__(self, transfer: Transfer, job: Job, part: PartFile, start: int) -> None:
        self._transfer, self._job, self._part = transfer, job, part
        self._start = self._stop = start
        self._entered = time.monotonic()
        self.came = False

    def __call__(self, offset: int, data: memoryview) -> None:
        try:
            self._part.write(offset, data)
        except OSError as error:
            raise disk_trouble(error, self._part) from error
        self._stop = offset + len(data)
        if self._stop - self._start >= COMMIT or time.monotonic() - self._entered > COMMIT_S:
            self.commit()
        self._transfer.landed(len(data))

    def commit(self) -> None:
        """Enter what has come since the last time into the journal."""
        if self._stop > self._start:
            try:
                self._part.commit(self._start, self._stop)
            except OSError as error:
                raise disk_trouble(error, self._part) from error
            self._start, self._entered = self._stop, time.monotonic()
            self._job.refusals = 0
            self.came = True
