"""The papers of a bucket in a folder of this machine, for those who know folders alone: receipts, signatures, sums."""

import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ckptool.address import NO_NAMES, Source
from ckptool.errors import CkptoolError, Unreachable, UsageError
from ckptool.hashes import sha256_of_file
from ckptool.report import Report
from ckptool.sanitize.bucket.shelf import AT_ONCE, Shelf, Stored
from ckptool.sanitize.bucket.stored import name_of, unstored
from ckptool.sanitize.job import Job
from ckptool.sanitize.names import RECEIPT, SIGNATURE, receipt_of, signature_of
from ckptool.sanitize.receipts.receipt_file import MOST
from ckptool.sanitize.receipts.sign import Signer
from ckptool.sanitize.receipts.sums import SUMS, sums_of
from ckptool.sanitize.view import View

TRIES = 20
LONGEST = 255
"""Bytes of the name of a file here; one of an object may be longer."""
READERS = 16
PAPERS = (RECEIPT, RECEIPT + SIGNATURE)
SIGNED = SUMS + SIGNATURE
NO_NAME = "has a name that no file can have"


@dataclass(frozen=True, slots=True)
class InBucket:
    """Outputs below one address of a bucket."""

    shelf: Shelf
    folder: Path = Path(os.devnull, "out")
    """Nothing can be in it: files of this machine never lie among these outputs."""

    def check_apart(self, source: Source) -> None:
        self.shelf.check_apart(source)

    def claim(self) -> None:
        empty = all(item["Key"] == self.shelf.prefix for item in self.shelf.page(MaxKeys=2).get("Contents", ()))
        if empty:
            self.shelf.write(SUMS, b"")
        elif self.shelf.size(SUMS) is None:  # asked last: another run may have begun just now
            raise UsageError(
                f"{self.shelf.label()}: holds objects that sanitize did not put there",
                "give an empty prefix, or one that an earlier run wrote",
            )

    def due(self, signer: Signer, jobs: Sequence[Job]) -> list[Job]:
        """Those whose receipts are not signed by this key are done again, as `Signer.due` says of a folder."""
        papers = {name: stored for name, stored in self.shelf.files().items() if is_paper(name)}
        with mirrored(self.shelf, papers) as mirror:
            return [replace(job, force=signer.due(replace(job, out=mirror.folder)).force) for job in jobs]

    def signed(self, signer: Signer, job: Job, report: Report) -> Report:
        """Refused where the signature cannot be put there."""
        output = job.quarantined if report["action"] == "quarantined" else job.released
        paper = receipt_of(output)
        try:
            data = self.shelf.read(name_of(paper, job), MOST)
            if data is None:
                raise Unreachable(f"{self.shelf.label(name_of(paper, job))}: is not there any more", "run it again")
            self.shelf.write(name_of(signature_of(paper), job), signer.sign(paper.name, data))
        except CkptoolError as error:
            return unstored(job, report, error)
        return report | {"signature": job.told(signature_of(paper))}

    def write_sums(self, signer: Signer | None) -> int:
        return write_sums_in(self.shelf, signer)

    def view(self) -> AbstractContextManager[View]:
        return outputs_in(self.shelf)


def write_sums_in(shelf: Shelf, signer: Signer | None = None) -> int:
    """SHA256SUMS by all receipts in the bucket, as `write_sums` does for a folder; how many are not signed.

    A bucket has no locks. So whoever wrote them looks again, and writes again where another run has put something
    there meanwhile: the last one to write has seen all.
    """
    for _ in range(TRIES):
        before = shelf.files()
        known = {name: stored.version for name, stored in before.items() if is_paper(name)}
        unsigned = wrote(shelf, before, known, signer)
        if {name: stored.version for name, stored in shelf.files().items() if is_paper(name)} == known:
            return unsigned
        time.sleep(random.uniform(0.1, 1))
    raise Unreachable(f"{shelf.label(SUMS)}: others write there all the time", "run it again when they are done")


def is_paper(name: str) -> bool:
    return name.endswith(PAPERS) or name in (SUMS, SIGNED)


def wrote(shelf: Shelf, before: dict[str, Stored], known: dict[str, str], signer: Signer | None) -> int:
    """Write them once; `known` then says what has to be there if nobody else did."""
    with mirrored(shelf, {name: before[name] for name in known}) as mirror:
        data, unsigned = sums_of(mirror.folder, signer)
    if SIGNED in known and (unsigned or shelf.read(SUMS, len(data)) != data):
        shelf.remove([SIGNED])
        del known[SIGNED]
    known[SUMS] = shelf.write(SUMS, data)
    if signer is not None and not unsigned:
        known[SIGNED] = shelf.write(SIGNED, signer.sign(SUMS, data))
    return unsigned


@contextmanager
def mirrored(shelf: Shelf, objects: dict[str, Stored]) -> Iterator[View]:
    """A folder with all papers among these objects, and an empty file for each of the others."""
    with tempfile.TemporaryDirectory(prefix="ckptool-") as name, ThreadPoolExecutor(READERS) as pool:
        mirror = View(Path(name))
        papers: list[tuple[Path, str, int]] = []
        for name, stored in objects.items():
            path = placed(mirror.folder, name)
            if path is None:
                mirror.strange.append((f"s3://{shelf.bucket}/{shelf.prefix}{name}", NO_NAME))
            elif is_paper(name) and stored.size > MOST:
                os.truncate(path, stored.size)  # whoever reads it sees that it is too large
            elif is_paper(name):
                papers.append((path, name, stored.size))

        def fill(paper: tuple[Path, str, int]) -> None:
            path, name, size = paper
            data = shelf.read(name, MOST, size)
            if data is None:
                path.unlink()  # it is gone meanwhile
            else:
                path.write_bytes(data)

        list(pool.map(fill, papers))
        yield mirror


def placed(folder: Path, name: str) -> Path | None:
    """An empty file for an object, whose name anybody may have chosen; None where there can be none."""
    parts = name.split("/")
    if any(part in NO_NAMES or "\0" in part or len(part.encode()) > LONGEST for part in parts):
        return None
    path = folder.joinpath(*parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except OSError:
        return None
    return path


@contextmanager
def outputs_in(shelf: Shelf) -> Iterator[View]:
    """All of the bucket as a folder, whose outputs are hashed where they lie, several at once."""
    objects = shelf.files()
    with mirrored(shelf, objects) as mirror, ThreadPoolExecutor(AT_ONCE) as pool:

        def hashed(name: str) -> str:
            with shelf.open(name) as source:
                return sha256_of_file(source)

        def named(path: Path) -> str:
            return path.relative_to(mirror.folder).as_posix()

        begun: dict[str, Future[str]] = {
            name: pool.submit(hashed, name) for name in objects if name + RECEIPT in objects
        }

        def waited(path: Path) -> str:
            name = named(path)
            return (begun.get(name) or pool.submit(hashed, name)).result()

        mirror.hashed = waited
        mirror.told = lambda path: f"s3://{shelf.bucket}/{shelf.prefix}{named(path)}"
        try:
            yield mirror
        finally:
            pool.shutdown(cancel_futures=True)
