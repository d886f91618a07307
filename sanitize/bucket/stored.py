"""One file whose output goes to a bucket: done in a folder of this machine, put there with its receipt last."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from ckptool.errors import CkptoolError, Malformed, Refused
from ckptool.report import Report
from ckptool.sanitize.bucket.shelf import Shelf, ended, shelf_at
from ckptool.sanitize.job import Job
from ckptool.sanitize.names import receipt_of, signature_of
from ckptool.sanitize.receipts.receipt_file import MOST, files_of, read_small, receipt_in, regular
from ckptool.sanitize.refusal import refused_report
from ckptool.text import escape

BEGIN = "ckptool-store-"
YOUNG = 60.0
"""Seconds in which a folder gets its lock."""


def stored(job: Job, answer: Callable[[Job], Report], stopped: Callable[[], bool]) -> Report:
    """The report of `answer`, which knows folders alone, when all that it left is in the bucket.

    What cannot be put there is refused: without a receipt, the next run does it again. Nothing stays on this machine.
    """
    report: Report = {}
    try:
        with staging() as folder:
            staged = replace(job, out=folder, store="")
            shelf = shelf_at(job.store)
            if not (job.force or job.problem):
                lay_out(shelf, staged)
            report = answer(staged)
            if report["action"] != "skipped":
                if stopped():  # its process was ended by us: what stands there may be another run's by now
                    raise ended(shelf.label())
                clear(shelf, staged)
            if report["action"] in ("released", "quarantined"):
                put(shelf, staged, report["action"] == "quarantined", stopped)
        return report
    except CkptoolError as error:
        return unstored(job, report, error)
    except OSError as error:
        told = f"{escape(tempfile.gettempdir(), 1000)}: cannot be worked in: {error.strerror or error}"
        return unstored(job, report, Refused(told, "make room, or let TMPDIR name another folder"))


@contextmanager
def staging() -> Iterator[Path]:
    """A folder to work in, locked as long as its process lives."""
    sweep()
    with tempfile.TemporaryDirectory(prefix=BEGIN, ignore_cleanup_errors=True) as name:
        folder = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield Path(name).resolve()
        finally:
            os.close(folder)


@cache
def sweep() -> None:
    """Remove what processes that were killed have left: once in a process, and never what is just being made."""
    for path in Path(tempfile.gettempdir()).glob(f"{BEGIN}*"):
        with suppress(OSError):
            status = path.lstat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < YOUNG:
                continue
            folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(folder)


def lay_out(shelf: Shelf, job: Job) -> None:
    """The receipts that stand in the bucket, and empty files of the size of what they are for: all that is looked at
    to tell whether the file is done."""
    for output in (job.released, job.quarantined):
        path = receipt_of(output)
        data = shelf.read(name_of(path, job), MOST)
        if data is None:
            continue
        try:
            files = files_of(path, receipt_in(data, path))
        except Malformed:
            continue
        output.parent.mkdir(parents=True, exist_ok=True)
        for file, _ in files:
            size = shelf.size(name_of(file, job))
            if size is not None:
                file.touch()
                os.truncate(file, size)
        path.write_bytes(data)


def clear_bucket(job: Job) -> None:
    """The same for a job whose process nobody waits for any more."""
    clear(shelf_at(job.store), job)


def clear(shelf: Shelf, job: Job) -> None:
    """Remove what an earlier run put there, signatures and receipts first."""
    outputs = (job.released, job.quarantined)
    papers = [paper for output in outputs for paper in (signature_of(receipt_of(output)), receipt_of(output))]
    files = [file for output in outputs for file in (output, output.with_suffix(".yaml"))]
    for paths in (papers, files):
        shelf.remove(name_of(path, job) for path in paths)


def put(shelf: Shelf, job: Job, quarantined: bool, stopped: Callable[[], bool]) -> None:
    """The output and what lies beside it, then the receipt: only what has the name that it must have, and no links."""
    path = receipt_of(job.quarantined if quarantined else job.released)
    try:
        data = read_small(path, MOST)
        files = files_of(path, receipt_in(data, path))
        for file, _ in files:
            with opened(file) as fd:
                shelf.put(name_of(file, job), fd, stopped)
    except (OSError, Malformed) as error:
        what = f"{escape(job.shown, 1000)}: its process left no output and receipt where it says that they are"
        raise Refused(what, "do not trust the file") from error
    shelf.write(name_of(path, job), data)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A regular file that no link leads to. Raises OSError."""
    if path.parent.resolve() != path.parent:
        raise OSError("its folder is a link")
    fd = regular(path)
    try:
        yield fd
    finally:
        os.close(fd)


def name_of(path: Path, job: Job) -> str:
    return path.relative_to(job.out).as_posix()


def unstored(job: Job, report: Report, error: CkptoolError) -> Report:
    """What was found in the file stays in the report of one whose output is not there."""
    found = {key: report[key] for key in ("findings", "verdict", "format", "usage") if key in report}
    return refused_report(job, error) | found
