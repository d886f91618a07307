"""Holds the outputs of a folder against their receipts, without the sources. All that lies there may be hostile."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptool.convert.scan import MODEL_ENDINGS
from ckptool.errors import CkptoolError, Malformed
from ckptool.hashes import sha256_of
from ckptool.report import Report
from ckptool.sanitize.names import QUARANTINE, RECEIPT, SIGNATURE, signature_of
from ckptool.sanitize.receipts.receipt_file import MOST, files_of, output_of, read_small, receipt_in, why
from ckptool.sanitize.receipts.signature import MOST as MOST_OF_SIGNATURE
from ckptool.sanitize.receipts.signature import Verifier
from ckptool.sanitize.receipts.sums import SUMS, line
from ckptool.text import escape

Hashed = Callable[[Path], str]
"""The sha256 of an output; of one in a bucket, that of the object which the file stands for."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One file of the folder; `problem` says what is wrong with it, if anything is."""

    path: Path
    problem: str = ""


def check_folder(out: Path, verifier: Verifier | None = None, hashed: Hashed = sha256_of) -> Iterator[Checked]:
    """Every output by its receipt, then what has none, then the sums; signatures where there is a key for them."""
    expected: list[bytes] = []
    known: set[Path] = set()
    files, unseen = files_below(out)
    for path in files:
        if not path.name.endswith(RECEIPT):
            continue
        try:
            data = read_small(path, MOST)
            receipt = receipt_in(data, path)
        except OSError as error:
            yield Checked(path, f"cannot be read: {why(error)}")
            continue
        except Malformed as error:
            yield Checked(path, error.message.removeprefix(f"{escape(str(path), 1000)}: "))
            continue
        if verifier is not None:
            yield signature(verifier, path, data)
        if not in_its_place(receipt, path.relative_to(out)):
            yield Checked(output_of(path), f"lies where nothing lies that was {escape(receipt['action'])}")
        for file, sha256 in files_of(path, receipt):
            known.add(file)
            expected.append(line(os.fsencode(file.relative_to(out)), sha256))
            yield Checked(file, differs(file, sha256, hashed))
    yield from unseen
    yield from strangers(files, known)
    yield from sums(out, expected, verifier)
    if verifier is not None:
        there = set(files)
        for path in signatures(files):
            if path.with_name(path.name.removesuffix(SIGNATURE)) not in there:
                yield Checked(path, "is the signature of a file that is not there")


def files_below(out: Path) -> tuple[list[Path], list[Checked]]:
    """Every file, sorted by the folder and the name, and the folders that nobody looked into."""
    files: list[Path] = []
    unseen: list[Checked] = []

    def failed(error: OSError) -> None:
        unseen.append(Checked(Path(os.fsdecode(error.filename)), f"cannot be looked into: {error.strerror}"))

    for folder, folders, names in os.walk(out, onerror=failed):
        folders.sort()
        links = [path for path in (Path(folder, name) for name in folders) if os.path.islink(path)]
        unseen += [Checked(path, "is a link to a folder, which was not looked into") for path in links]
        files += [Path(folder, name) for name in sorted(names)]
    return files, unseen


def in_its_place(receipt: Report, relative: Path) -> bool:
    """What was quarantined lies in the quarantine, and nothing else does."""
    expected = "quarantined" if len(relative.parts) > 1 and relative.parts[0] == QUARANTINE else "released"
    return bool(receipt["action"] == expected)


def differs(file: Path, sha256: str, hashed: Hashed) -> str:
    if os.path.islink(file) or not os.path.isfile(file):
        return "is not there, though there is a receipt for it"
    try:
        found = hashed(file)
    except (CkptoolError, OSError) as error:
        return f"cannot be read: {error}"
    return "" if found == sha256 else f"is not what the receipt is for: its sha256 is {found}"


def strangers(files: list[Path], known: set[Path]) -> Iterator[Checked]:
    """Models, and settings of models, without a receipt: not through with, or put there by somebody else."""
    settings = {path.with_suffix(".yaml") for path in known}
    for path in files:
        if path not in known and (path.suffix.lower() in MODEL_ENDINGS or path in settings):
            yield Checked(path, "has no receipt")


def sums(out: Path, expected: list[bytes], verifier: Verifier | None) -> Iterator[Checked]:
    """Whether they agree with the receipts, and are signed as they are."""
    path, told = out / SUMS, "does not agree with the receipts"
    try:
        found = read_small(path, sum(map(len, expected)))
    except FileNotFoundError:
        yield Checked(path, "is not there")
        return
    except OSError as error:
        yield Checked(path, f"{told}: {why(error)}")
        return
    yield Checked(path, "" if sorted(found.splitlines(keepends=True)) == sorted(expected) else told)
    if verifier is not None:
        yield signature(verifier, path, found)


def signature(verifier: Verifier, path: Path, data: bytes) -> Checked:
    """The signature of a file that holds these bytes."""
    found = signature_of(path)
    try:
        return Checked(found, verifier.problem(path.name, data, read_small(found, MOST_OF_SIGNATURE)))
    except FileNotFoundError:
        return Checked(path, "has no signature")
    except OSError as error:
        return Checked(found, f"cannot be read: {why(error)}")


def signatures(files: list[Path]) -> list[Path]:
    """Those of receipts and of sums, by their names."""
    return [path for path in files if path.name.endswith((RECEIPT + SIGNATURE, SUMS + SIGNATURE))]
