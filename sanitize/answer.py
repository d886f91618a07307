"""The report of one job by a worker: the same wherever it runs, on this machine or on one of a cluster."""

from typing import Any

from ckptool.errors import Refused
from ckptool.report import Report
from ckptool.sanitize.job import Job
from ckptool.sanitize.receipt import standing
from ckptool.sanitize.unread import unread
from ckptool.sanitize.work import PASSED_OVER, skipped
from ckptool.sanitize.worker import Worker, crashed
from ckptool.tensor import Finding

ACTIONS = frozenset({"released", "quarantined", "refused", "crashed", "skipped", PASSED_OVER})
TEXTS = ("source", "path", "verdict")


def answer(worker: Worker, job: Job) -> Report:
    """What becomes of one file: refused unseen, skipped as done already, or what its own process says."""
    if job.store:
        from ckptool.sanitize.stored import stored  # with what it needs to reach a bucket

        return stored(job, lambda staged: answer(worker, staged), worker.stopped)
    if job.problem:
        return unread(job, Refused(job.problem, "give the file itself, if it is to be read"))
    done = standing(job, by_hash=False)
    if done is not None:
        return skipped(job, done)
    report = worker.do(job)
    return report if is_report(report) else crashed(job, "its process gave no report that can be read", None)


def is_report(report: dict[str, Any]) -> bool:
    """Whether all is there that reports are made of: a child that a file took over may say anything."""
    findings = report.get("findings")
    return (
        report.get("action") in ACTIONS
        and all(isinstance(report.get(key), str) for key in TEXTS)
        and isinstance(findings, list)
        and all(is_finding(finding) for finding in findings)
        and (report["action"] not in ("released", "quarantined") or isinstance(report.get("output"), dict))
    )


def is_finding(found: Any) -> bool:
    numbers = ("pickle", "offset")
    return isinstance(found, dict) and all(
        type(found.get(name)) is (int if name in numbers else str) for name in Finding.__dataclass_fields__
    )
