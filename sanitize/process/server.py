"""A small process with everything loaded and one thread, which forks a child for each file and never opens one.

It is told jobs on its input, a line of JSON each, with a socket where the source is borrowed, and answers each on its
output: a line of JSON that says how the child ended and how many bytes of result follow. When its input ends, so do its
child and it.
"""

import gc
import json
import os
import select
import signal
import socket
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptool.sanitize.job import Job
from ckptool.sanitize.process import child, landlock
from ckptool.sanitize.process.limits import adopt, leave_network, seconds_for
from ckptool.sanitize.process.lock import NONE, locked

INPUT, OUTPUT = 0, 1
BLOCK = 1 << 16
GRACE = 60.0
"""Seconds between the end of a result and the end of its process: on a busy disk, closing files takes a while."""
# Signals by which the kernel says that a limit is passed.
LIMITS: dict[int, str] = {signal.SIGXCPU: "CPU time", signal.SIGXFSZ: "output size"}


@dataclass(slots=True)
class Ended:
    """How a child ended."""

    result: bytes
    late: bool
    """It ran out of time, and was killed for that."""
    status: int
    rss: int
    cpu: float

    @property
    def data(self) -> dict[str, Any]:
        number = os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0
        return {
            "size": len(self.result),
            "signal": name_of(number),
            "exit": os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else None,
            "limit": "time" if self.late else LIMITS.get(number),
            "rss": self.rss,
            "cpu": self.cpu,
        }


def name_of(number: int) -> str:
    """SIGKILL …, empty for 0."""
    try:
        return signal.Signals(number).name if number else ""
    except ValueError:  # a real-time signal
        return f"signal {number}"


class Gone(Exception):  # a message to the loop, no error for people
    """Whoever hands out jobs is gone."""


def main() -> None:
    network = not leave_network()  # first: a process with several threads gets no user namespace
    adopt()
    load()
    say(json.dumps({"network": network}).encode() + b"\n")
    gc.collect()
    gc.freeze()  # what is here stays shared with the children
    try:
        with socket.socket(fileno=INPUT) as jobs:
            while True:
                line, channel = heard(jobs)
                with channel or nullcontext():
                    ended = watched(Job.of(json.loads(line), channel), channel.fileno() if channel else NONE)
                say(json.dumps(ended.data).encode() + b"\n" + ended.result)
    except Gone:
        return


def load() -> None:
    """What every child needs, so that none has to load it."""
    import numkong  # noqa: F401
    import numpy  # noqa: F401

    import ckptool.convert.folders
    import ckptool.convert.hypernetwork
    import ckptool.verify.expect
    import ckptool.verify.explain
    import ckptool.verify.outcome  # noqa: F401

    landlock.python()
    gc.set_threshold(500_000, 20, 20)


def heard(jobs: socket.socket) -> tuple[bytes, socket.socket | None]:
    """The next line, and what came with it. Nobody hands out a job before the last one is done."""
    line, numbers = b"", list[int]()
    while not line.endswith(b"\n"):
        data, some, _, _ = socket.recv_fds(jobs, BLOCK, 1)
        if not data:
            raise Gone
        line, numbers = line + data, numbers + list(some)
    return line, socket.socket(fileno=numbers[0]) if numbers else None


def say(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(OUTPUT, view) :]


def watched(job: Job, channel: int) -> Ended:
    """The end of a job that no other process does meanwhile; the time to wait for one is not the file's own."""
    with locked(job, still_wanted) as lock:
        return forked(job, channel, NONE if lock is None else lock)


def still_wanted(seconds: float) -> bool:
    """Wait, but not without whoever hands out jobs."""
    if select.select([INPUT], [], [], seconds)[0]:
        raise Gone
    return True


def forked(job: Job, *kept: int) -> Ended:
    """Fork, and wait for the end of the child or of its time."""
    seconds = seconds_for(job)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        child.run(job, seconds, theirs, *kept)
    os.close(theirs)
    try:
        result, late = collected(ours, time.monotonic() + seconds)
        if not late:
            wait_a_little(pid)
    finally:  # also when nobody waits for it any more
        os.close(ours)
        end(pid)
        _, status, usage = os.wait4(pid, 0)
        end_adopted()
    return Ended(result, late, status, usage.ru_maxrss << 10, usage.ru_utime + usage.ru_stime)


def collected(pipe: int, deadline: float) -> tuple[bytes, bool]:
    """What the child wrote until it closed the pipe, and whether its time ran out before."""
    result = bytearray()
    while len(result) <= child.MOST:
        left = deadline - time.monotonic()
        ready = select.select([pipe, INPUT], [], [], left)[0] if left > 0 else []
        if not ready:
            return b"", True
        if INPUT in ready:
            raise Gone
        data = os.read(pipe, BLOCK)
        if not data:
            return bytes(result), False
        result += data
    return b"", False


def wait_a_little(pid: int) -> None:
    """Until the child has ended by itself, so that its own way to end is what is told."""
    until = time.monotonic() + GRACE
    pause = 0.0002
    while time.monotonic() < until:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def end(pid: int) -> None:
    """The child and whatever it started; it leads a group of its own, as soon as it runs."""
    for kill in (os.killpg, os.kill):
        with suppress(OSError):  # it has ended already, or leads no group yet
            kill(pid, signal.SIGKILL)


def end_adopted() -> None:
    """What has left the group: without its parent it is a child of this process, which has no other now."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with suppress(OSError):  # a kernel that does not list them
        while numbers := children.read_text().split():
            for pid in map(int, numbers):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
