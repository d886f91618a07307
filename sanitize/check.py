"""Holds the outputs of a folder against their receipts, without the sources."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptool.convert.destination import ENDING
from ckptool.errors import CkptoolError
from ckptool.hashes import sha256_of
from ckptool.sanitize.names import RECEIPT
from ckptool.sanitize.receipt import read_receipt
from ckptool.sanitize.sums import SUMS, files_of, line, receipts_in


@dataclass(frozen=True, slots=True)
class Checked:
    """One file of the folder; `problem` says what is wrong with it, if anything is."""

    path: Path
    problem: str = ""


def check_folder(out: Path) -> Iterator[Checked]:
    """Every output by its receipt, then outputs that have none, then the sums."""
    expected: list[bytes] = []
    known: set[Path] = set()
    for path in receipts_in(out):
        try:
            receipt = read_receipt(path)
        except CkptoolError as error:
            yield Checked(path, error.message.partition(": ")[2])
            continue
        own = path.name.removesuffix(RECEIPT)
        if receipt["output"]["name"] != own:
            yield Checked(path, "is the receipt of another file")
        for file, sha256 in files_of(path, receipt):
            known.add(file)
            expected.append(line(os.fsencode(file.relative_to(out)), sha256))
            yield Checked(file, differs(file, sha256))
    yield from strangers(out, known)
    yield Checked(out / SUMS, sums_differ(out, expected))


def differs(file: Path, sha256: str) -> str:
    if file.is_symlink() or not file.is_file():
        return "is not there, though there is a receipt for it"
    try:
        found = sha256_of(file)
    except (CkptoolError, OSError) as error:
        return f"cannot be read: {error}"
    return "" if found == sha256 else f"is not what the receipt is for: its sha256 is {found}"


def strangers(out: Path, known: set[Path]) -> Iterator[Checked]:
    """Models without a receipt: not through with, or put there by somebody else."""
    for folder, folders, names in os.walk(out):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(ENDING) and path not in known:
                yield Checked(path, "has no receipt")


def sums_differ(out: Path, expected: list[bytes]) -> str:
    try:
        found = (out / SUMS).read_bytes()
    except OSError:
        return "is not there"
    return "" if sorted(found.splitlines(keepends=True)) == sorted(expected) else "does not agree with the receipts"
