"""What runs on the machines of a cluster: text comes in and text goes out, and workers are kept from job to job."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ckptool import __version__
from ckptool.errors import CkptoolError
from ckptool.sanitize.answer import answer
from ckptool.sanitize.job import Job
from ckptool.sanitize.process.worker import Worker
from ckptool.text import escape

IDLE = 300.0
"""Seconds after which workers that nobody needs are ended."""


@dataclass(slots=True, eq=False)
class Pool:
    """The workers of one process of Dask, which has several threads, and jobs of several runs."""

    idle: list[Worker] = field(default_factory=list)
    busy: dict[Worker, str] = field(default_factory=dict)
    """Worker -> the run of its job."""
    ended: set[str] = field(default_factory=set)
    used: float = 0.0
    watch: threading.Timer | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def lent(self, run: str) -> Iterator[Worker]:
        """A worker for one job of a run."""

        def stopped() -> bool:
            return run in self.ended

        with self.lock:
            worker = self.idle.pop() if self.idle else Worker(stopped)
            worker.stopped = stopped
            self.busy[worker] = run
        try:
            yield worker
        finally:
            with self.lock:
                del self.busy[worker]
                if not stopped():
                    self.idle.append(worker)
                    self.used = time.monotonic()
                    self.look_later()
            if stopped():
                worker.close()

    def look_later(self) -> None:
        if self.watch is None:
            self.watch = threading.Timer(IDLE, self.look)
            self.watch.daemon = True
            self.watch.start()

    def look(self) -> None:
        """End the idle workers when none was used for long; else look again."""
        with self.lock:
            self.watch = None
            if time.monotonic() - self.used < IDLE or self.busy:
                self.look_later()
                return
        self.end_idle()

    def end_idle(self) -> None:
        with self.lock:
            idle, self.idle = self.idle, []
        for worker in idle:
            worker.close()

    def end(self, run: str) -> None:
        """End the jobs of a run."""
        with self.lock:
            self.ended.add(run)
            busy = [worker for worker, its in self.busy.items() if its == run]
        for worker in busy:
            worker.close()


POOL = Pool()


def unfit(asked: dict[str, Any]) -> str:
    """Why this process cannot do jobs of that client; empty when it can."""
    if asked["version"] != __version__:
        return f"has ckptool {__version__}, and here is {asked['version']}"
    if asked["run"] in POOL.ended:
        return "was told that this run has ended"
    unseen = next((path for path in asked["seen"] if not os.path.lexists(path)), None)
    if unseen is not None:
        return f"does not see {escape(unseen, 1000)}"
    unwritable = next((path for path in asked["written"] if not os.access(path, os.W_OK | os.X_OK)), None)
    if unwritable is not None:
        return f"cannot write to {escape(unwritable, 1000)}"
    if asked.get("store"):
        from ckptool.sanitize.bucket.shelf import shelf_at
        from ckptool.sanitize.receipts.sums import SUMS

        try:
            shelf_at(asked["store"]).size(SUMS)
        except CkptoolError as error:
            return f"cannot put outputs there: {error.message}"
    if asked["denoise"]:
        from ckptool.verify.search_command import check_extra

        try:
            check_extra("--verify denoise")
        except CkptoolError as error:
            return f"cannot prove what the policy asks for: {error.message}"
    return ""


def look(text: str) -> str:
    """Why this machine cannot do the jobs of a run; empty when it can."""
    return unfit(json.loads(text))


def run_job(text: str) -> str:
    """One job: its report, or why there is none."""
    asked = json.loads(text)
    try:
        problem = unfit(asked)
        if problem:
            return json.dumps({"unfit": problem, "where": own_address()})
        job = Job.of(asked["job"])
        with POOL.lent(asked["run"]) as worker:
            return json.dumps({"report": answer(worker, job), "network": bool(worker.network)})
    except CkptoolError as error:
        told = [error.message, error.hint]
    except Exception as error:  # told here: Dask would log it with the job, in which an address may hold a password
        told = [f"an error of ckptool itself: {type(error).__name__}: {error}", "report it, and run it again"]
    return json.dumps({"error": told, "where": own_address()})


def own_address() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def leave(run: str) -> None:
    """A client goes: its jobs are ended, and no worker waits for others; those of other runs start theirs again."""
    POOL.end(run)
    POOL.end_idle()
