"""The report of one job by a worker: the same wherever it runs, on this machine or on one of a cluster."""

from ckptool.errors import Refused
from ckptool.report import Report
from ckptool.sanitize.job import Job
from ckptool.sanitize.process.worker import Worker
from ckptool.sanitize.receipts.receipt import standing
from ckptool.sanitize.unread import unread
from ckptool.sanitize.work import skipped


def answer(worker: Worker, job: Job) -> Report:
    """What becomes of one file: refused unseen, skipped as done already, or what its own process says."""
    if job.store:
        from ckptool.sanitize.bucket.stored import stored  # with what it needs to reach a bucket

        return stored(job, lambda staged: answer(worker, staged), worker.stopped)
    if job.problem:
        return unread(job, Refused(job.problem, "give the file itself, if it is to be read"))
    done = standing(job, by_hash=False)
    if done is not None:
        return skipped(job, done)
    return worker.do(job)
