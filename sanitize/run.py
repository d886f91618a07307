"""A run over many files: what is done already is skipped, the rest goes to the workers, each answer once."""

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptool.errors import Refused, UsageError
from ckptool.output import Output, write_at
from ckptool.report import Report, refusal_data
from ckptool.sanitize.job import Job
from ckptool.sanitize.names import targets_of
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.receipt import standing
from ckptool.sanitize.sources import Item, items_of, share
from ckptool.sanitize.sums import SUMS, write_sums
from ckptool.sanitize.work import PASSED_OVER, skipped
from ckptool.sanitize.worker import Worker, crashed
from ckptool.tensor import Finding
from ckptool.text import escape

ACTIONS = frozenset({"released", "quarantined", "refused", "crashed", "skipped", PASSED_OVER})
TEXTS = ("source", "path", "verdict")


@dataclass(slots=True, eq=False)
class Run:
    """One run; `passed_over` and `network` are known when it is through."""

    sources: Sequence[Path]
    out: Path
    policy: Policy
    workers: int
    shard: tuple[int, int] | None = None
    force: bool = False
    passed_over: int = 0
    crew: list[Worker] = field(default_factory=list)
    jobs: list[tuple[Item, Job]] = field(default_factory=list)

    def prepare(self) -> int:
        """Find the files and make the output folder; how many there are. Raises UsageError before anything is done."""
        items = items_of(self.sources, self.out)
        targets = targets_of(items)  # of all, so that a file has the same name in every sharding
        self.jobs = [(item, self.job(item, targets[item])) for item in share(items, self.shard)]
        if not items:
            raise UsageError(
                "no file was found, so nothing was looked at", "give a file, or a folder that holds models"
            )
        claim(self.out)
        return len(self.jobs)

    def job(self, item: Item, target: str) -> Job:
        out, path = Path(os.path.abspath(self.out)), Path(os.path.abspath(item.path))
        return Job(
            path, str(item.path), item.relative, out, str(self.out), target, item.listed, self.policy, self.force
        )

    def reports(self) -> Iterator[Report]:
        """The report of each file as it is done; sums of all outputs are written when all are."""
        answers: queue.SimpleQueue[Report | BaseException | None] = queue.SimpleQueue()
        stop = threading.Event()
        waiting = iter(self.jobs)
        lock = threading.Lock()

        def following() -> tuple[Item, Job] | None:
            with lock:
                return None if stop.is_set() else next(waiting, None)

        def work(worker: Worker) -> None:
            try:
                while (found := following()) is not None:
                    answers.put(answer(worker, *found))
            except BaseException as error:  # nobody else would hear of it
                answers.put(error)
            finally:
                worker.close()
                answers.put(None)

        self.crew = [Worker(stop.is_set) for _ in range(max(1, min(self.workers, len(self.jobs))))]
        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in self.crew]
        for thread in threads:
            thread.start()
        try:
            yield from self.collected(answers, len(threads))
        finally:
            stop.set()
            for worker in self.crew:
                worker.close()
            for thread in threads:
                thread.join()
        write_sums(self.out)

    def collected(self, answers: "queue.SimpleQueue[Report | BaseException | None]", running: int) -> Iterator[Report]:
        while running:
            found = answers.get()
            if found is None:
                running -= 1
            elif isinstance(found, BaseException):
                raise found
            elif found["action"] == PASSED_OVER:
                self.passed_over += 1
            else:
                yield found


def answer(worker: Worker, item: Item, job: Job) -> Report:
    if item.problem:
        error = Refused(f"{escape(job.shown, 1000)}: {item.problem}", "give the file itself, if it is to be read")
        job.clear()
        own: Report = {"path": job.shown, "action": "refused", "verdict": "refused", "findings": [], "parity": None}
        return refusal_data(job.shown, error.message, error.hint) | own
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


def claim(out: Path) -> None:
    """Make the output folder. Raises UsageError for one that holds what no run of sanitize put there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        empty = not any(out.iterdir())
    except OSError as error:
        raise UsageError(
            f"{escape(str(out), 1000)}: cannot be the output folder: {error.strerror}", "give another folder"
        ) from error
    if empty:
        with Output(out / SUMS, 0, force=True) as file:
            write_at(file.fd, b"", 0)
    elif not (out / SUMS).is_file():
        raise UsageError(
            f"{escape(str(out), 1000)}: holds files that sanitize did not write",
            "give an empty folder, or one that an earlier run wrote",
        )


def network_note(run: Run) -> str:
    """What cannot be kept from the processes here, said rather than hidden; empty where all can."""
    reachable = any(worker.network for worker in run.crew)
    return "the processes of the files could reach the network: this system lets nobody take it away" * reachable
