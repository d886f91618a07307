"""A run over many files: what is to be done, who does it, and the sums when all is done."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ckptool.address import Address, Source
from ckptool.convert.remote import Place
from ckptool.errors import CkptoolError, Refused, UsageError
from ckptool.output import Output, write_at
from ckptool.report import Report
from ckptool.sanitize.item import Item
from ckptool.sanitize.job import Job
from ckptool.sanitize.lock import sweep
from ckptool.sanitize.names import targets_of
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.sign import Signer
from ckptool.sanitize.sources import items_of, share
from ckptool.sanitize.sums import SUMS, write_sums
from ckptool.sanitize.work import PASSED_OVER
from ckptool.text import escape, plural

if TYPE_CHECKING:
    from ckptool.sanitize.shelf import Shelf

NOWHERE = Path(os.devnull, "out")
"""A folder that there cannot be: outputs go to a bucket."""


class Hands(Protocol):
    """Who does the jobs: this machine, or a cluster."""

    @property
    def network(self) -> bool:
        """Whether some process of a file could reach the network; known when the jobs are done."""

    def reports(self, jobs: Sequence[Job]) -> Iterator[Report]:
        """The report of each job as it is done, each exactly once; closing the iterator ends the work."""


@dataclass(slots=True, eq=False)
class Run:
    """One run; `passed_over` is known when it is through."""

    sources: Sequence[Source]
    out: Path | Address
    policy: Policy
    hands: Hands
    shard: tuple[int, int] | None = None
    force: bool = False
    signer: Signer | None = None
    passed_over: int = 0
    unsigned: int = 0
    """Receipts in the folder without a signature by this key; known when it is through."""
    jobs: list[Job] = field(default_factory=list)
    problem: CkptoolError | None = None
    """Why the sums could not be put into a bucket; known when it is through."""

    @property
    def shelf(self) -> "Shelf | None":
        """Where outputs go if that is a bucket."""
        if isinstance(self.out, Path):
            return None
        from ckptool.sanitize.shelf import shelf_at  # with what it needs to reach a bucket

        return shelf_at(self.out.url)

    @property
    def folder(self) -> Path:
        return self.out if isinstance(self.out, Path) else NOWHERE

    def prepare(self) -> int:
        """Find the files and make the output folder; how many there are. Raises UsageError before anything is done."""
        shelf = self.shelf
        if shelf is not None:
            shelf.check_apart(self.sources)
        items = items_of(self.sources, self.folder)
        targets = targets_of(items)  # of all, so that a file has the same name in every sharding
        self.jobs = [self.job(item, targets[item]) for item in share(items, self.shard)]
        if not items:
            raise UsageError(
                "no file was found, so nothing was looked at", "give a file, or a folder that holds models"
            )
        if shelf is None:
            claim(self.folder)
        else:
            from ckptool.sanitize.mirror import claim_in

            claim_in(shelf)
        return len(self.jobs)

    def job(self, item: Item, target: str) -> Job:
        return Job(
            path=item.path if isinstance(item.path, Place) else Path(os.path.abspath(item.path)),
            shown=str(item.path),
            relative=item.relative,
            out=Path(os.path.abspath(self.folder)),
            shown_out=str(self.out),
            target=target,
            listed=item.listed,
            policy=self.policy,
            force=self.force,
            problem=item.problem,
            commit=item.path.store.origin()[1] or None if isinstance(item.path, Place) else None,
            store=self.out.url if isinstance(self.out, Address) else "",
        )

    def reports(self) -> Iterator[Report]:
        """The report of each file as it is done; sums of all outputs are written when all are."""
        if self.signer is not None:
            self.jobs = self.due(self.signer)
        shown = {job.shown: job for job in self.jobs}
        for report in self.hands.reports(self.jobs):
            if report["action"] == PASSED_OVER:
                self.passed_over += 1
            else:
                yield self.signed(report, shown)
        self.finish()

    def finish(self) -> None:
        """Write the sums. What happens to a bucket meanwhile keeps nobody from hearing of the files."""
        shelf = self.shelf
        if shelf is None:
            sweep(self.folder)
            self.unsigned = write_sums(self.folder, self.signer)
            return
        from ckptool.sanitize.mirror import write_sums_in

        try:
            self.unsigned = write_sums_in(shelf, self.signer)
        except CkptoolError as error:
            self.problem = Refused(error.message, error.hint)  # of files that are done, it is no usage any more

    def due(self, signer: Signer) -> list[Job]:
        """The jobs, with those forced whose receipts are not signed."""
        if self.shelf is None:
            return [signer.due(job) for job in self.jobs]
        from ckptool.sanitize.mirror import due_in

        return due_in(self.shelf, signer, self.jobs)

    def signed(self, report: Report, shown: dict[str, Job]) -> Report:
        """With the signature of the receipt, which is found by the job: where it lies is not for the child to say."""
        job = shown.get(report["path"])
        if self.signer is None or job is None or report["action"] not in ("released", "quarantined"):
            return report
        if job.store:
            from ckptool.sanitize.mirror import sign_in

            assert self.shelf is not None
            return sign_in(self.shelf, self.signer, job, report)
        return report | {"signature": self.signer.sign_receipts(job)}


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
    told = "the processes of the files could reach the network: this system lets nobody take it away"
    return told if run.hands.network else ""


def signature_note(run: Run) -> str:
    """What the sums are not signed for; empty where they are, or nobody asked."""
    told = f"{SUMS} is not signed: {plural(run.unsigned, 'receipt')} in the folder without a signature by this key"
    return told if run.unsigned else ""
