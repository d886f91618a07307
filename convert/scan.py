"""Scan files: what their pickles refer to and would call, read from directories and pickles alone."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ckptool.convert.contents import Contents
from ckptool.convert.findings import findings_of, verdict
from ckptool.convert.folders import shard_paths
from ckptool.convert.read import in_file, read_contents
from ckptool.convert.remote import Place, Where, open_at
from ckptool.convert.safetensors_file import read_safetensors
from ckptool.convert.sniff import sniff
from ckptool.errors import CkptoolError, NotACheckpoint, Refused
from ckptool.hashes import sha256_of_file
from ckptool.source import Bytes
from ckptool.tensor import Finding
from ckptool.text import escape

# Endings under which models travel: in a folder, such a file that cannot be read is refused and not passed over.
MODEL_ENDINGS = frozenset(
    {
        ".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".safetensors", ".joblib", ".model", ".mdl", ".th", ".t7",
        ".npy", ".npz", ".dat", ".data", ".zip", ".tar", ".gz", ".7z", ".rar", ".h5", ".onnx", ".gguf",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What one file holds. `error` says why it was refused, where it was."""

    path: str
    format: str | None
    verdict: str
    findings: tuple[Finding, ...] = ()
    error: CkptoolError | None = None
    sha256: str | None = None


def scan_file(path: Where, with_hash: bool = False) -> Scan:
    """Scan one file by its content. A file that cannot be read or understood is refused, never clean."""
    try:
        with open_at(path) as source:
            found = scan_source(path, source)
            if with_hash and counts(path, found):
                found = replace(found, sha256=sha256_of_file(source))
            return found
    except CkptoolError as error:
        return Scan(str(path), None, "refused", error=error)
    except OSError as error:
        return refused(path, f"cannot be read: {error.strerror or error}", "check the disk and its permissions")
    except MemoryError:
        return refused(path, "there is not enough memory for it", "it asks for more than a model of its size needs")


def refused(path: Where, what: str, hint: str) -> Scan:
    return Scan(str(path), None, "refused", error=Refused(f"{escape(str(path), 1000)}: {what}", hint))


def scan_source(path: Where, source: Bytes) -> Scan:
    """Scan an open file."""
    contents: Contents | None = None
    try:
        kind = sniff(source)
        if kind == "safetensors":
            read_safetensors(source)
            return Scan(str(path), kind, "clean")
        contents = read_contents(source, kind)
        findings = findings_of(contents, "reported")
    except CkptoolError as error:
        return Scan(str(path), contents.format if contents else None, "refused", error=error)
    errors = [pickle.error for pickle in contents.pickles if pickle.error is not None]
    stopped = contents.error or next(iter(errors), None)
    worst = verdict(findings)
    if stopped is not None:
        stopped = in_file(source, stopped)
        worst = worst if worst == "dangerous" else "refused"
    return Scan(str(path), contents.format, worst, tuple(findings), stopped)


def scan_folder(folder: Path, with_hash: bool = False) -> Iterator[Scan]:
    """Scan every file below a folder that is a checkpoint by its content, or claims to be one by its name.

    In order; links to folders are not followed, and a folder that cannot be looked into is refused.
    """
    unseen: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=unseen.append):
        folders.sort()
        for name in sorted(files):
            path = Path(root, name)
            if path.is_file() or path.suffix.lower() in MODEL_ENDINGS:
                found = scan_file(path, with_hash)
                if counts(path, found):
                    yield found
    for error in unseen:
        yield refused(
            Path(os.fsdecode(error.filename)), f"cannot be looked into: {error.strerror}", "check its permissions"
        )


def scan_place(folder: Place, with_hash: bool = False) -> Iterator[Scan]:
    """The same below a folder on another machine."""
    for path in folder.below():
        found = scan_file(path, with_hash)
        if counts(path, found):
            yield found


def scan_index(path: Where, with_hash: bool = False) -> Iterator[Scan]:
    """Scan the shards that an index names."""
    try:
        shards = shard_paths(path)
    except CkptoolError as error:
        yield Scan(str(path), "sharded", "refused", error=error)
        return
    for shard in shards:
        yield scan_file(shard, with_hash)


def counts(path: Where, found: Scan) -> bool:
    """Whether a file below a folder is told of: all that could be read, and what is refused though it is a model."""
    return found.verdict != "refused" or is_model(path, found)


def is_model(path: Where, found: Scan) -> bool:
    """A refused file counts unless it is plainly something else, such as a text whose first letter is an opcode."""
    if path.suffix.lower() in MODEL_ENDINGS:
        return True
    if isinstance(found.error, NotACheckpoint):
        return "git-lfs" in found.error.message
    return bool(found.findings) or found.format not in (None, "pickle")
