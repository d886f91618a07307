"""A run over many files: what is to be done, who does it, and the sums when all is done."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ckptool.address import Address, Source
from ckptool.convert.remote import Place
from ckptool.errors import CkptoolError, Refused, UsageError
from ckptool.report import Report
from ckptool.sanitize.item import Item
from ckptool.sanitize.job import Job
from ckptool.sanitize.names import targets_of
from ckptool.sanitize.outputs import Outputs, outputs_at
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.receipts.shape import PASSED_OVER
from ckptool.sanitize.receipts.sign import Signer
from ckptool.sanitize.receipts.sums import SUMS
from ckptool.sanitize.sources import items_of, share
from ckptool.text import plural


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
    """Why there are no new sums; known when it is through."""

    @property
    def outputs(self) -> Outputs:
        return outputs_at(self.out)

    def prepare(self) -> int:
        """Find the files and make the output folder; how many there are. Raises UsageError before anything is done."""
        items = items_of(self.sources, self.outputs)
        targets = targets_of(items)  # of all, so that a file has the same name in every sharding
        self.jobs = [self.job(item, targets[item]) for item in share(items, self.shard)]
        if not items:
            raise UsageError(
                "no file was found, so nothing was looked at", "give a file, or a folder that holds models"
            )
        self.outputs.claim()
        return len(self.jobs)

    def job(self, item: Item, target: str) -> Job:
        return Job(
            path=item.path if isinstance(item.path, Place) else Path(os.path.abspath(item.path)),
            shown=str(item.path),
            relative=item.relative,
            out=Path(os.path.abspath(self.outputs.folder)),
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
            self.jobs = self.outputs.due(self.signer, self.jobs)
        shown = {job.shown: job for job in self.jobs}
        for report in self.hands.reports(self.jobs):
            if report["action"] == PASSED_OVER:
                self.passed_over += 1
            else:
                yield self.signed(report, shown)
        self.finish()

    def finish(self) -> None:
        """Write the sums. What happens to them keeps nobody from hearing of the files."""
        try:
            self.unsigned = self.outputs.write_sums(self.signer)
        except CkptoolError as error:
            self.problem = Refused(error.message, error.hint)  # of files that are done, it is no usage any more

    def signed(self, report: Report, shown: dict[str, Job]) -> Report:
        """With the signature of the receipt, which is found by the job: where it lies is not for the child to say."""
        job = shown.get(report["path"])
        if self.signer is None or job is None or report["action"] not in ("released", "quarantined"):
            return report
        return self.outputs.signed(self.signer, job, report)


def network_note(run: Run) -> str:
    """What cannot be kept from the processes here, said rather than hidden; empty where all can."""
    told = "the processes of the files could reach the network: this system lets nobody take it away"
    return told if run.hands.network else ""


def signature_note(run: Run) -> str:
    """What the sums are not signed for; empty where they are, or nobody asked."""
    told = f"{SUMS} is not signed: {plural(run.unsigned, 'receipt')} in the folder without a signature by this key"
    return told if run.unsigned else ""
