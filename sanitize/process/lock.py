"""One process at a time for one output: of other runs into the same folder too, on this machine or on others.

The lock is an flock of a file in the output folder, which is there only while its output is made. The kernel frees
it when the last process that has it open ends, however that ends; a file that is left then locks nothing.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from ckptool.output import remove_left
from ckptool.sanitize.job import Job

BEGIN, END = ".ckptool-", ".lock"
PAUSE, LONGEST = 0.002, 0.1
"""Seconds between looks at a lock that another process has: at first, and after a while."""
NONE = -1
"""Of a file system that knows no locks: then one has to see to it oneself that runs do not meet."""


def lock_of(job: Job) -> Path:
    return job.out / f"{BEGIN}{sha256(os.fsencode(job.target)).hexdigest()[:32]}{END}"


@contextmanager
def locked(job: Job, wait: Callable[[float], bool]) -> Iterator[int | None]:
    """The open lock of a job's output, NONE where there are no locks, None when `wait` no longer waited.

    `wait` is given seconds, and says whether to look again after them.
    """
    path = lock_of(job)
    lock, pause = taken(path), PAUSE
    while lock is None and wait(pause):
        lock, pause = taken(path), min(2 * pause, LONGEST)
    try:
        yield lock
    finally:
        if lock is not None and lock != NONE:
            with suppress(OSError):
                path.unlink()  # while it is locked, so that it is nobody else's
            os.close(lock)


def taken(path: Path) -> int | None:
    """The lock if it is free; None where another process has it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError:
        return NONE  # where no file can be made, no output can
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(lock, path):
            return lock
    except BlockingIOError:
        pass
    except OSError:
        with suppress(OSError):
            path.unlink()
        os.close(lock)
        return NONE
    os.close(lock)
    return None


def is_at(lock: int, path: Path) -> bool:
    """Whether the file still has its name: whoever had the lock before took the name away."""
    try:
        return os.path.samestat(os.fstat(lock), path.lstat())
    except OSError:
        return False


def clear(job: Job) -> None:
    """Remove what was made of a source, unless another process is at it: then that one decides what stands there."""
    if job.store:
        from ckptool.sanitize.bucket.stored import clear_bucket  # with what it needs to reach a bucket

        clear_bucket(job)
        return
    until = time.monotonic() + 1  # longer than a process that was killed takes to end

    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return time.monotonic() < until

    with locked(job, wait) as lock:
        if lock is not None:
            job.clear()


def sweep(out: Path) -> None:
    """Remove the locks that nobody has, and what nobody writes any more: of processes that were killed."""
    remove_left(out)
    for path in out.glob(f"{BEGIN}*{END}"):
        lock = taken(path)
        if lock is not None and lock != NONE:
            with suppress(OSError):
                path.unlink()
            os.close(lock)
