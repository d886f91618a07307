"""Where the output goes, and what must not be there."""

import os
from pathlib import Path

from ckptool.address import Address, Source
from ckptool.errors import UsageError
from ckptool.output import exists
from ckptool.source import File
from ckptool.tensor import Plan
from ckptool.text import escape

ENDING = ".safetensors"
PT = ".pt"


COLLIDES = "-converted"
"""The suffix that is added only where the output's name would be the source's."""


def default_name(source: Source, suffix: str = COLLIDES) -> str:
    """The source's stem with `suffix` and `.safetensors`."""
    if isinstance(source, Address):
        return source.stem + (suffix if suffix != COLLIDES else "") + ENDING
    name = source.name
    if name.endswith(".index.json"):
        name = name.removesuffix(".index.json")
    stem = name if source.is_dir() else name.rpartition(".")[0] or name
    if suffix != COLLIDES or (not source.is_dir() and stem + ENDING == source.name):
        stem += suffix
    return stem + ENDING


def destination_of(source: Source, given: Path | None, suffix: str = COLLIDES) -> Path:
    """DST as given, inside it when it is a folder, or beside the source; what comes from elsewhere, in this folder."""
    if isinstance(source, Path) and source.name in ("", ".."):
        source = source.resolve()  # `.` and `..` have a name of their own
    if given is not None and given.is_dir():
        return given / default_name(source, "" if suffix == COLLIDES else suffix)
    if given is not None:
        return given
    name = default_name(source, suffix)
    return Path(name) if isinstance(source, Address) else source.with_name(name)


def check_destination(path: Path, plan: Plan, force: bool) -> None:
    """Raises UsageError when `path` is a source, exists without `force`, or has no folder to be in."""
    label = escape(str(path), 1000)
    if path.suffix == PT and plan.structure is None:
        raise UsageError(
            f"{label}: only a hypernetwork is written as .pt", f"end the name in {ENDING}: every UI loads that"
        )
    if path.suffix not in (ENDING, PT):
        raise UsageError(
            f"{label}: the output is safetensors, but the name does not end in {ENDING}", f"end the name in {ENDING}"
        )
    if not path.parent.is_dir():
        raise UsageError(f"{label}: its folder does not exist", "make the folder first")
    check_free(path, plan, force)


def check_free(path: Path, plan: Plan, force: bool) -> None:
    """Raises UsageError when `path` is a source of the plan, or exists without `force`."""
    label = escape(str(path), 1000)
    if not os.path.lexists(path):
        return
    if path.exists():
        status = path.stat()
        if any(
            isinstance(r.source, File) and r.source.identity == (status.st_dev, status.st_ino) for r in plan.sources
        ):
            raise UsageError(
                f"{label}: the destination is the source", "give another name: the source is never touched"
            )
    if not force:
        raise exists(path)
    if path.is_dir():
        raise UsageError(f"{label}: is a folder", "give the name of a file")
