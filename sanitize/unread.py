"""The report of a file that no process looked at."""

from ckptool.errors import CkptoolError, Unreachable
from ckptool.report import Report
from ckptool.sanitize.job import Job
from ckptool.sanitize.process.lock import clear
from ckptool.sanitize.refusal import refused_report


def unread(job: Job, error: CkptoolError) -> Report:
    """It is refused, and what an earlier run made of it goes, unless its machine only does not answer now."""
    if not isinstance(error, Unreachable):
        clear(job)
    return refused_report(job, error)
