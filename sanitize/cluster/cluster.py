"""Jobs on the machines of a Dask cluster, a few for each of its threads at a time, and each answer as it comes."""

import json
import os
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptool.errors import Refused
from ckptool.report import Report
from ckptool.sanitize.cluster.client import AGAIN, Asked, check_fit, connected, left, lost
from ckptool.sanitize.cluster.task import run_job
from ckptool.sanitize.job import Job
from ckptool.sanitize.process.worker import crashed
from ckptool.sanitize.receipts.shape import is_report
from ckptool.text import escape

if TYPE_CHECKING:
    from distributed import Client, Future

PER_THREAD = 3
"""Jobs that are handed out for each thread of the cluster: one at work, and the next ones on the way."""
BEAT = 2.0
"""Seconds without an answer after which the cluster is looked at."""
TRIES = 4
"""Times that Dask may give up a job because its processes were killed, each time after some of its own tries."""


@dataclass(slots=True, eq=False)
class Cluster:
    """A scheduler's address; as many files at once as its workers have threads."""

    address: str
    patience: float = 15.0
    """Seconds to wait for the first worker."""
    network: bool = False

    def reports(self, jobs: Sequence[Job]) -> Iterator[Report]:
        """The report of each job as it is done; closing the iterator ends the jobs that are at work."""
        if not jobs:
            return
        with connected(self.address) as client:
            asked = Asked(uuid.uuid4().hex)
            check_fit(client, jobs, asked, self.patience)
            flow = Flow(client, asked, self, iter(jobs))
            try:
                yield from flow.reports()
            finally:
                left(client, asked.run, [sent.future for sent in flow.pending.values()])


@dataclass(frozen=True, slots=True)
class Sent:
    """A job that is handed out."""

    job: Job
    future: "Future[str]"
    tries: int


@dataclass(slots=True, eq=False)
class Flow:
    """A window that slides over the jobs: what is handed out, and what comes back."""

    client: "Client"
    asked: Asked
    cluster: Cluster
    waiting: Iterator[Job]
    pending: dict[str, Sent] = field(default_factory=dict)
    """Key of Dask -> what was sent under it."""
    ended: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue)
    threads: int = 0
    looked: float = 0.0
    seen: float = field(default_factory=time.monotonic)
    """When there last was a worker."""

    def reports(self) -> Iterator[Report]:
        while self.fill():
            keys = self.heard()
            if not keys:
                continue
            texts = self.texts(keys)
            for key in keys:
                report = self.settled(self.pending.pop(key), texts.get(key))
                if report is not None:
                    yield report

    def fill(self) -> bool:
        """Hand out what there is room for; whether anything is to come."""
        if time.monotonic() - self.looked > BEAT:
            self.look()
        room = PER_THREAD * max(1, self.threads) - len(self.pending)
        for job in islice(self.waiting, max(0, room)):
            self.send(job, 1)
        return bool(self.pending)

    def look(self) -> None:
        """Count the threads. Raises Refused when the scheduler is gone, or all workers are and stay away."""
        try:
            self.threads = sum(self.client.nthreads().values())
        except OSError as error:
            raise lost(self.cluster.address) from error
        now = self.looked = time.monotonic()
        if self.threads:
            self.seen = now
        elif now - self.seen > AGAIN:
            raise Refused(
                f"{escape(self.cluster.address)}: its workers are gone, and none came for {AGAIN:.0f} seconds",
                "start workers, and run it again: what has a receipt is skipped",
            )

    def send(self, job: Job, tries: int) -> None:
        """Under a key of its own: what another run left at work is none of ours; its output's lock is waited for."""
        try:
            future = self.client.submit(run_job, self.asked.text(job), pure=False)
        except (OSError, RuntimeError) as error:
            raise lost(self.cluster.address) from error
        self.pending[str(future.key)] = Sent(job, future, tries)
        future.add_done_callback(lambda done: self.ended.put(str(done.key)))

    def heard(self) -> list[str]:
        """Keys of what has ended; none when nothing has for a while."""
        try:
            keys = [self.ended.get(timeout=BEAT)]
        except queue.Empty:
            return []
        while not self.ended.empty():
            keys.append(self.ended.get())
        return keys

    def texts(self, keys: list[str]) -> dict[str, str | None]:
        """The answers, fetched together; None where Dask lost one or has none."""
        done = {key: self.pending[key].future for key in keys if self.pending[key].future.status == "finished"}
        try:
            found: dict[str, str | None] = self.client.gather(done, errors="skip") if done else {}
        except OSError as error:
            raise lost(self.cluster.address) from error
        return found

    def settled(self, sent: Sent, text: str | None) -> Report | None:
        """The report, or None for a job that was handed out again. Raises Refused when the run cannot go on."""
        if text is None:
            return self.failed(sent)
        found = answer_in(text)
        if "report" in found:
            self.cluster.network |= found.get("network") is True
            whole = is_report(found["report"], sent.job)
            return found["report"] if whole else crashed(sent.job, "its worker gave no report that can be read", None)
        where = escape(str(found.get("where")), 200)
        if "error" in found:
            told = found["error"] if isinstance(found["error"], list) else []
            message, hint = (escape(str(one), 1000) for one in (*told, "failed", "its log says why")[:2])
            raise Refused(f"{where}: {message}", hint)
        if sent.tries < TRIES and not there(sent.job):  # a source that has gone: the job says so itself
            self.send(sent.job, sent.tries + 1)
            return None
        unfit = escape(str(found.get("unfit", "gives answers that cannot be read")), 1000)
        raise Refused(f"{where}: this worker {unfit}", "mend or stop it, and run it again")

    def failed(self, sent: Sent) -> Report | None:
        """What becomes of a job that Dask has no answer for: mostly, its worker was killed, whatever the file is."""
        from distributed import KilledWorker

        error = sent.future.exception() if sent.future.status == "error" else None
        if sent.future.status in ("cancelled", "lost"):
            raise lost(self.cluster.address)
        if error is not None and not isinstance(error, KilledWorker):
            raise Refused(
                f"{escape(self.cluster.address)}: a job ended with {type(error).__name__}: {escape(str(error), 400)}",
                "the log of the workers says more; ckptool has to be the same on all machines",
            )
        if sent.tries < TRIES:
            self.send(sent.job, sent.tries + 1)
            return None
        return crashed(sent.job, "the workers that had it were killed, time and again", None)


def answer_in(text: str) -> dict[str, Any]:
    """What a worker says; nothing where that is nothing that one says."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def there(job: Job) -> bool:
    return not isinstance(job.path, Path) or os.path.lexists(job.path)
