"""A worker: one server process at a time, which is started again when somebody kills it."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ckptool.errors import CkptoolError, Refused
from ckptool.report import SCHEMA_VERSION, Report
from ckptool.sanitize.job import Job
from ckptool.sanitize.process.lender import Lender
from ckptool.sanitize.process.limits import environment
from ckptool.sanitize.process.lock import clear
from ckptool.sanitize.receipts.shape import is_report, is_word
from ckptool.sanitize.unread import unread
from ckptool.text import escape

TRIES = 3
"""Servers that may die under one file before it is told as crashed."""
COMMAND = (sys.executable, "-m", "ckptool.sanitize.process.server")


class Died(Exception):  # a message from a server's pipe to its worker, no error for people
    """The server is gone, whatever its child did."""


class NotLent(Exception):  # the same within this worker
    """The source is not to be had from its machine: `error` says why."""

    def __init__(self, error: CkptoolError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(slots=True, eq=False)
class Worker:
    """Hands jobs to a server and turns its answers into reports."""

    stopped: Callable[[], bool]
    """Whether the run has ended: then a dead server is no reason to start another."""
    server: "subprocess.Popen[bytes] | None" = None
    jobs: socket.socket | None = None
    """The server's input."""
    network: bool | None = None
    """Whether children can reach a network; None until one has been started."""
    peak: int = field(default=0)
    """The most memory that a child took, in bytes."""

    def do(self, job: Job) -> Report:
        """The report of one file, whatever becomes of the processes that look at it."""
        for _ in range(TRIES):
            try:
                return self.report(job, *self.asked(job))
            except NotLent as error:
                return unread(job, error.error)
            except Died:
                self.close()
                if self.stopped():
                    break
        return crashed(job, "its worker was killed, time and again", None)

    def asked(self, job: Job) -> tuple[dict[str, Any], bytes]:
        """How its process ended, and what it said."""
        if isinstance(job.path, Path):
            return self.told(job.data)
        with Lender(job.path, job.out) as lender:
            try:
                size = lender.lent.size
            except CkptoolError as error:
                raise NotLent(error) from error
            ended, result = self.told(job.lent(size), lender.channel)
            return ended | {"asked": lender.lent.asked}, result

    def told(self, data: dict[str, Any], *channel: socket.socket) -> tuple[dict[str, Any], bytes]:
        """The answer of a server to a job, which it is handed with what it borrows its source by."""
        server = self.server or self.start()
        assert self.jobs is not None
        line = json.dumps(data).encode() + b"\n"
        try:
            sent = socket.send_fds(self.jobs, [line], [one.fileno() for one in channel])
            self.jobs.sendall(line[sent:])
        except OSError as error:
            raise Died from error
        ended = self.line(server)
        return ended, exactly(server.stdout, ended["size"])

    def start(self) -> "subprocess.Popen[bytes]":
        """A server that is ready; one that is killed before it is, says nothing about any file.

        Raises Refused when none comes up: then nothing at all can be done.
        """
        for _ in range(TRIES):
            server = self.server = self.launched()
            try:
                self.network = bool(self.line(server)["network"])
                return server
            except Died:
                self.close()
                if self.stopped():
                    break
        raise Refused("no process for the files can be started", "the lines above say why")

    def launched(self) -> "subprocess.Popen[bytes]":
        self.jobs, theirs = socket.socketpair()
        with theirs:
            return subprocess.Popen(
                COMMAND,
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                cwd="/",
                env=environment(),
                start_new_session=True,  # an interrupt is for us, and ends them by the end of their input
            )

    def line(self, server: "subprocess.Popen[bytes]") -> dict[str, Any]:
        assert server.stdout is not None
        try:
            found = json.loads(server.stdout.readline() or b"null")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Died
        return found

    def close(self) -> None:
        """End the server, and with it its child."""
        if self.server is not None:
            server, self.server = self.server, None
            server.kill()  # first: then nobody waits in a read of its answer
            server.wait()
            if server.stdout is not None:
                server.stdout.close()
        if self.jobs is not None:
            self.jobs.close()

    def report(self, job: Job, ended: dict[str, Any], result: bytes) -> Report:
        self.peak = max(self.peak, ended["rss"])
        used = {"cpu_seconds": round(ended["cpu"], 4), "memory": ended["rss"]}
        usage = {"usage": used | {name: ended[name] for name in ("asked",) if name in ended}}
        found = parsed(result) if ended["exit"] == 0 and ended["limit"] is None else {}
        report: Any = found.get("report")
        if is_report(report, job) and report["action"] != "crashed":
            return dict(report) | usage
        if "report" in found:
            return crashed(job, "its process gave no report that can be read", None) | usage
        if "crashed" in found:
            limit = found.get("limit")
            return crashed(job, str(found["crashed"]), limit if is_word(limit) else None) | usage
        return crashed(job, *cause(ended)) | usage


def exactly(stream: "IO[bytes] | None", size: int) -> bytes:
    assert stream is not None
    data = stream.read(size)
    if len(data) < size:
        raise Died
    return data


def parsed(result: bytes) -> dict[str, Any]:
    """What a child says; one that was taken over may say anything."""
    try:
        found = json.loads(result)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def cause(ended: dict[str, Any]) -> tuple[str, str | None]:
    """What ended a child, in words, and the limit that it was."""
    if ended["limit"] is not None:
        return f"its process went beyond its limit of {ended['limit']}", ended["limit"]
    if ended["signal"]:
        return f"its process was ended by {ended['signal']}", None
    return "its process ended without a result", None


def crashed(job: Job, what: str, limit: str | None) -> Report:
    """The report of a file whose process did not come to an end of its own; what it had written is removed."""
    try:
        clear(job)
    except (CkptoolError, OSError):
        what += "; what it left could not be removed"
    return {
        "schema_version": SCHEMA_VERSION,
        "source": job.shown,
        "path": job.shown,
        "output": None,
        "action": "crashed",
        "verdict": "refused",
        "findings": [],
        "parity": None,
        "limit": limit,
        "error": {
            "message": f"{escape(job.shown, 1000)}: {escape(what, 400)}",
            "hint": "do not trust the file; --max-memory, --max-output and --timeout allow more",
        },
    }
