"""Scan files: what their pickles refer to and would call, read from directories and pickles alone."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptool.convert.contents import Contents
from ckptool.convert.findings import findings_of, verdict
from ckptool.convert.folders import shard_paths
from ckptool.convert.read import in_file, read_contents
from ckptool.convert.safetensors_file import read_safetensors
from ckptool.convert.sniff import sniff
from ckptool.errors import CkptoolError, NotACheckpoint
from ckptool.source import File
from ckptool.tensor import Finding

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


def scan_file(path: Path) -> Scan:
    """Scan one file by its content. A file that cannot be read or understood is refused, never clean."""
    contents: Contents | None = None
    try:
        with File.open(path) as source:
            kind = sniff(source)
            if kind == "safetensors":
                read_safetensors(source)
                return Scan(str(path), kind, "clean")
            contents = read_contents(source, kind)
            findings = findings_of(contents, "reported")
            errors = [pickle.error for pickle in contents.pickles if pickle.error is not None]
            error = contents.error or next(iter(errors), None)
            if error is not None:
                error = in_file(source, error)
    except CkptoolError as error:
        return Scan(str(path), contents.format if contents else None, "refused", error=error)
    worst = verdict(findings)
    if error is not None and worst != "dangerous":
        worst = "refused"
    return Scan(str(path), contents.format, worst, tuple(findings), error)


def model_files(folder: Path) -> Iterator[Path]:
    """The files below a folder, in order; links to folders are not followed."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(root, name)
            if path.is_file():
                yield path


def scan_folder(folder: Path) -> Iterator[Scan]:
    """Scan every file that is a checkpoint by its content, or claims to be one by its name."""
    for path in model_files(folder):
        found = scan_file(path)
        if found.verdict == "refused" and not is_model(path, found):
            continue
        yield found


def scan_index(path: Path) -> Iterator[Scan]:
    """Scan the shards that an index names."""
    try:
        shards = shard_paths(path)
    except CkptoolError as error:
        yield Scan(str(path), "sharded", "refused", error=error)
        return
    yield from map(scan_file, shards)


def is_model(path: Path, found: Scan) -> bool:
    """A refused file counts unless it is plainly something else, such as a text whose first letter is an opcode."""
    if path.suffix.lower() in MODEL_ENDINGS:
        return True
    if isinstance(found.error, NotACheckpoint):
        return "git-lfs" in found.error.message
    return bool(found.findings) or found.format not in (None, "pickle")
