"""The way to a Dask cluster: connect, see whether its machines can do the jobs, and leave nothing behind."""

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptool import __version__
from ckptool.errors import Refused, UsageError
from ckptool.sanitize.cluster.task import leave, look
from ckptool.sanitize.job import Job
from ckptool.sanitize.process.lock import BEGIN, END, NONE, taken
from ckptool.sanitize.receipts.sums import SUMS
from ckptool.text import escape

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT = 10.0
"""Seconds to reach the scheduler, at first and when the connection breaks."""
AGAIN = 60.0
"""Seconds without any worker after which a run ends."""
SAMPLES = 32
"""Sources that every worker must see before anything is done."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the machines, as text: nothing else goes there."""

    run: str
    """A name that no other run has."""

    def text(self, job: Job) -> str:
        """One job. A source that has gone here too is for the job itself to tell."""
        return self.form(job, [*sums_of(job), *sources_of([job])], [], {"job": job.data})

    def trial(self, jobs: Sequence[Job], token: str) -> str:
        """What every machine has to see before anything is done; sources are looked at from the first to the last."""
        some = jobs[:: 1 + (len(jobs) - 1) // SAMPLES]
        written = [str(jobs[0].out)] if token else []
        return self.form(
            jobs[0], [*written, *([token] if token else []), *sources_of(some)], written, {"store": jobs[0].store}
        )

    def form(self, job: Job, seen: list[str], written: list[str], more: dict[str, Any]) -> str:
        own = {"run": self.run, "version": __version__, "denoise": job.policy.verify == "denoise"}
        return json.dumps({**own, "seen": seen, "written": written, **more})


def sums_of(job: Job) -> list[str]:
    return [] if job.store else [str(job.out / SUMS)]


def sources_of(jobs: Sequence[Job]) -> list[str]:
    """Files that are there; on other machines than this one, they may not be."""
    return [str(job.path) for job in jobs if isinstance(job.path, Path) and os.path.lexists(job.path)]


def check_extra() -> None:
    """Raises UsageError where Dask is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise UsageError("--cluster needs Dask", "pip install 'ckptool[cluster]'") from error


@contextmanager
def connected(address: str) -> "Iterator[Client]":
    """A client of the scheduler. Raises UsageError when there is none, or Dask is not installed."""
    check_extra()
    import dask
    from distributed import Client
    from distributed.security import Security

    hush()
    dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT:.0f}s"})
    security = Security()
    if address.startswith("tls:") and security.get_connection_args("client").get("ssl_context") is None:
        raise UsageError(
            f"{escape(address)}: there is no certificate to show there",
            "name it in Dask's configuration: distributed.comm.tls.ca-file, client.cert and client.key",
        )
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False, name="ckptool", security=security)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{escape(address)}: there is no scheduler that answers: {escape(str(error), 200)}",
            "start one by `dask scheduler`, and give the address that it prints",
        ) from error
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=CONNECT)


def hush() -> None:
    """Dask writes its own troubles to stderr, at length; ours say what there is to say."""
    for name in ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    warnings.filterwarnings("ignore", module=r"distributed\b.*")


def lost(address: str) -> Refused:
    return Refused(
        f"{escape(address)}: the connection to the scheduler is lost",
        "when it is there again, run it again: what has a receipt is skipped",
    )


def check_fit(client: "Client", jobs: Sequence[Job], asked: Asked, patience: float) -> None:
    """Raises UsageError unless there are workers, and all of them and the scheduler can do these jobs."""
    wait_for_workers(client, patience)
    with token_in(jobs[0]) as token:
        found = client.run(look, asked.trial(jobs, token), on_error="return")
    for address, problem in sorted(found.items()):
        if problem:
            raise UsageError(f"{escape(address)}: this worker {told(problem)}", HINT)
    try:
        client.run_on_scheduler(look, asked.form(jobs[0], [], [], {"denoise": False}))
    except Exception as error:
        raise UsageError(f"the scheduler {told(error)}", HINT) from error


HINT = "the same ckptool and the same folders, under the same paths, have to be on every machine of the cluster"


def told(problem: str | Exception) -> str:
    if isinstance(problem, str):
        return problem
    if "ModuleNotFoundError" in repr(problem) and "ckptool" in str(problem):  # Dask wraps it in another
        return "has no ckptool, or an older one"
    return f"cannot run ckptool: {type(problem).__name__}: {escape(str(problem), 300)}"


def wait_for_workers(client: "Client", patience: float) -> None:
    until = time.monotonic() + patience
    while not client.nthreads():
        if time.monotonic() > until:
            raise UsageError(
                f"the cluster has no workers, and none came for {patience:.0f} seconds",
                "start some on each machine: dask worker ADDRESS",
            )
        time.sleep(0.1)


@contextmanager
def token_in(job: Job) -> Iterator[str]:
    """A file in the output folder that nobody can take for one in another folder; empty where it is no folder."""
    if job.store:
        yield ""
        return
    path = job.out / f"{BEGIN}{os.urandom(16).hex()}{END}"
    lock = taken(path)  # held, so that another run does not sweep it away, and the next one does if we are killed
    if lock in (None, NONE):
        path.touch()
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)
        if lock is not None and lock != NONE:
            os.close(lock)


def left(client: "Client", run: str, futures: "Sequence[Future[str]]") -> None:
    """Take back what is handed out, and let the workers end what they keep for this run."""
    if client.status != "running":
        return
    with suppress(OSError, RuntimeError):
        client.cancel(list(futures), force=True)
        client.run(leave, run, on_error="ignore")
