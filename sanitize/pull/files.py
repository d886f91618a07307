"""What a pull request takes in of a run, under which names, and why it leaves out the rest."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ckptool.convert.destination import ENDING
from ckptool.convert.remote import Stated
from ckptool.errors import CkptoolError
from ckptool.report import Report
from ckptool.sanitize.names import INDEX, long, receipt_of
from ckptool.sanitize.receipts.receipt_file import read_receipt
from ckptool.sanitize.words import changes, worth
from ckptool.text import CUT, escape

SMALL = 1 << 24
"""Bytes. The Hub keeps larger files by their sha256, never in git itself."""
KEPT_OUT = frozenset({".git", ".cache"})
"""Folders that the Hub takes no file of."""
LOCAL = re.compile(r"(?<![\w.…])/[^\s:]+")
"""Paths of this machine, which are nobody's business."""


@dataclass(frozen=True, slots=True)
class Done:
    """One file of a repository, and what became of it."""

    source: str
    """Its path in the repository."""
    report: Report
    output: Path
    """Where its output lies, if it has one that was released."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What is made of one file in a pull request."""

    source: str
    report: Report
    output: Path
    sha256: str = ""
    source_sha256: str = ""
    goal: str = ""
    """The path of the output in the repository; empty for what is left out."""
    reason: str = ""
    """Why it is left out."""
    there: str = ""
    """The path under which the repository has the output already."""

    def is_stated(self, stated: Stated) -> bool:
        """Whether the Hub says that it holds these bytes: by their sha256, or small ones by git's own hash."""
        if stated.sha256 is not None:
            return stated.sha256 == self.sha256
        small = self.output.stat().st_size <= SMALL
        return small and stated.version == git_hash(self.output)


def offers_of(done: Iterable[Done], files: Mapping[str, Stated]) -> list[Offer]:
    """An offer for each file; `files` is what the repository holds at the commit that was read."""
    held = {stated.sha256 or stated.version: path for path, stated in sorted(files.items(), reverse=True)}
    taken: set[str] = set()
    offers = []
    for item in sorted(done, key=lambda item: item.source):
        offer = offer_of(item, files, held, taken)
        taken.add(offer.goal)
        offers.append(offer)
    return offers


def offer_of(done: Done, files: Mapping[str, Stated], held: Mapping[str, str], taken: set[str]) -> Offer:
    def left_out(reason: str, sha256: str = "", there: str = "") -> Offer:
        return Offer(done.source, done.report, done.output, sha256=sha256, reason=reason, there=there)

    word = worth(done.report)
    if word in ("refused", "crashed"):
        return left_out(f"{word}: {said(done)}")
    if word == "quarantined":
        return left_out("quarantined")
    try:
        receipt = read_receipt(receipt_of(done.output))
        sha256, before = receipt["output"]["sha256"], receipt["input"]["sha256"]
        there = held.get(sha256) or (held.get(git_hash(done.output)) if done.output.stat().st_size <= SMALL else None)
    except (CkptoolError, OSError):
        return left_out("its output or its receipt is gone")
    if there is not None:
        return left_out("unchanged" if there == done.source else f"its output is here already: {there}", sha256, there)
    if done.source.endswith((ENDING, ENDING + INDEX)) and is_as_it_was(done.report):
        return left_out("is safetensors already, and no more than its header is written anew", sha256)
    goal = goal_of(done, files, taken)
    if not goal:
        return left_out("the name of its output is taken", sha256)
    stated = files.get(done.source)
    return Offer(done.source, done.report, done.output, sha256, str(before or (stated and stated.sha256) or ""), goal)


def goal_of(done: Done, files: Mapping[str, Stated], taken: set[str]) -> str:
    """Beside the source, and never in the place of another file; empty where there is no such name."""
    folder = PurePosixPath(done.source).parent
    if KEPT_OUT & set(folder.parts):
        return ""
    folders = {str(above) for path in files for above in PurePosixPath(path).parents}
    for name in (done.output.name, PurePosixPath(long(PurePosixPath(done.source).name)).name):
        goal = str(folder / name)
        if goal == done.source or not (goal in files or goal in folders or goal in taken):
            return goal
    return ""


def is_as_it_was(report: Report) -> bool:
    """Whether a new file would have nothing for whoever has the old one."""
    return not (changes(report) or report["findings"] or report.get("repaired") or report.get("renamed"))


def said(done: Done) -> str:
    """The error without the file's own name, which stands beside it."""
    error = done.report.get("error") or {}
    message = str(error.get("message", "nothing is known"))
    return LOCAL.sub(CUT, message.removeprefix(escape(str(done.report["path"]), 1000)).removeprefix(": "))


def git_hash(path: Path) -> str:
    """The name that git gives to the bytes of a small file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
