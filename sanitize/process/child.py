"""The process of one file: it limits itself, does the work, and writes what became of it to a pipe."""

import json
import os
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from ckptool.sanitize.job import Job
from ckptool.sanitize.process.landlock import confine, drop_rights
from ckptool.sanitize.process.limits import die_with_parent, restrict
from ckptool.sanitize.process.lock import NONE
from ckptool.sanitize.work import sanitize

MOST = 1 << 26
"""Bytes of a result; of 100,000 tensors it has some 30 MB."""


def run(job: Job, seconds: int, pipe: int, *kept: int) -> NoReturn:
    """Do the job in a process that was just forked, and end it. Beside the pipe, what else it needs stays open."""
    try:
        die_with_parent()
        detach(pipe, *kept)
        restrict(job, seconds)
        shut_in(job)
        send(pipe, outcome(job))
        os._exit(0)
    finally:
        os._exit(1)


def detach(*needed: int) -> None:
    """A group of its own, and nothing open but what it needs: no way to speak in the name of who waits."""
    os.setsid()
    empty = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(empty, number)
    kept = sorted({2, *needed} - {NONE})
    for last, following in pairwise([*kept, max(empty, *kept) + 64]):
        os.closerange(last + 1, following)


def shut_in(job: Job) -> None:
    """Where the kernel can: no files but the source's folder to read, and the output folder to write.

    Temporary files lie there as well; but torch leaves folders of its own where it finds a place for some.
    """
    if job.policy.verify != "denoise":
        tempfile.tempdir = str(job.out)
    here = (job.path.parent, job.path.resolve().parent) if isinstance(job.path, Path) else ()
    drop_rights()
    confine(here, (job.out, Path(tempfile.gettempdir())))


def outcome(job: Job) -> dict[str, Any]:
    """The report, or what stopped the work: never nothing, and never a traceback."""
    try:
        return {"report": sanitize(job)}
    except MemoryError as error:
        return {"crashed": f"needs more memory than it may have{traced(error)}", "limit": "memory"}
    except RecursionError:
        return {"crashed": "is nested too deeply", "limit": "depth"}
    except Exception as error:  # a bug of ours must not look like a verdict on a file
        where = traced(error)
        return {"crashed": f"met an error of ckptool itself: {type(error).__name__}: {error}{where}", "limit": None}


def traced(error: Exception) -> str:
    """The innermost line, for whoever mends it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})" if trace else ""


def send(pipe: int, result: dict[str, Any]) -> None:
    data = json.dumps(result).encode()
    if len(data) > MOST:
        data = json.dumps({"crashed": "has a report of a size that no model's has", "limit": "report"}).encode()
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]
