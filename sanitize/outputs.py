"""Where the outputs of a run lie, with their receipts and sums: in a folder, or below one address of a bucket."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ckptool.address import Address, Source
from ckptool.errors import UsageError
from ckptool.output import Output, write_at
from ckptool.report import Report
from ckptool.sanitize.job import Job
from ckptool.sanitize.process.lock import sweep
from ckptool.sanitize.receipts.sign import Signer
from ckptool.sanitize.receipts.sums import SUMS, write_sums
from ckptool.sanitize.view import View
from ckptool.text import escape


class Outputs(Protocol):
    """What is done to all outputs together; one file's own are the matter of its job."""

    @property
    def folder(self) -> Path:
        """Where they lie on this machine; for a bucket, a folder that there cannot be."""

    def check_apart(self, source: Source) -> None:
        """Raises UsageError when outputs would lie among the sources."""

    def claim(self) -> None:
        """Make it ready. Raises UsageError where there is something that no run of sanitize put there."""

    def due(self, signer: Signer, jobs: Sequence[Job]) -> list[Job]:
        """The jobs, with those forced whose receipts are not signed by this key."""

    def signed(self, signer: Signer, job: Job, report: Report) -> Report:
        """The report of what was just written there, with the signature of its receipt."""

    def write_sums(self, signer: Signer | None) -> int:
        """When all is done; how many receipts have no signature by this key."""

    def view(self) -> AbstractContextManager[View]:
        """All that lies there, to be held against its receipts."""


def outputs_at(place: Path | Address) -> Outputs:
    """Raises UsageError for an address that is none of a bucket, and where the extra for buckets is not installed."""
    if isinstance(place, Path):
        return InFolder(place)
    from ckptool.sanitize.bucket.mirror import InBucket  # with what it needs to reach a bucket
    from ckptool.sanitize.bucket.shelf import shelf_at

    return InBucket(shelf_at(place.url))


@dataclass(frozen=True, slots=True)
class InFolder:
    """Outputs on this machine."""

    folder: Path

    def check_apart(self, source: Source) -> None:
        if isinstance(source, Address):
            return
        own = self.folder.resolve()
        folder = source.resolve() if source.is_dir() else source.resolve().parent
        if folder == own or (not source.is_dir() and folder.is_relative_to(own)):
            raise UsageError(
                f"{escape(str(self.folder), 1000)}: the output folder holds the source {escape(str(source), 1000)}",
                "give another folder: sources are never touched",
            )

    def claim(self) -> None:
        label = escape(str(self.folder), 1000)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            empty = not any(self.folder.iterdir())
        except OSError as error:
            raise UsageError(
                f"{label}: cannot be the output folder: {error.strerror}", "give another folder"
            ) from error
        if empty:
            with Output(self.folder / SUMS, 0, force=True) as file:
                write_at(file.fd, b"", 0)
        elif not (self.folder / SUMS).is_file():
            raise UsageError(
                f"{label}: holds files that sanitize did not write",
                "give an empty folder, or one that an earlier run wrote",
            )

    def due(self, signer: Signer, jobs: Sequence[Job]) -> list[Job]:
        return [signer.due(job) for job in jobs]

    def signed(self, signer: Signer, job: Job, report: Report) -> Report:
        return report | {"signature": signer.sign_receipts(job)}

    def write_sums(self, signer: Signer | None) -> int:
        sweep(self.folder)
        return write_sums(self.folder, signer)

    def view(self) -> AbstractContextManager[View]:
        return nullcontext(View(self.folder))
