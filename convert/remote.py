"""Sources on other machines, with as much of a path's interface as reading needs."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ckptool.address import Address, Source
from ckptool.source import Bytes, File

if TYPE_CHECKING:
    from ckptool.convert.remote_bytes import Remote

# Endings of files: what has one of them is looked for without asking for the list of a repository.
FILES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".json", ".yaml", ".pkl", ".sft"})


@dataclass(frozen=True, slots=True)
class Stated:
    """What a store says of a file that nobody has read yet."""

    size: int
    version: str
    """Another one when the file is another one; empty where the store does not tell."""
    sha256: str | None = None
    """Where the store keeps its files by it."""


class Store(Protocol):
    """Files under one address: of a repository, a bucket, or a web server's folder."""

    def label(self, path: str) -> str:
        """As it is shown, in the form that the source was given in."""

    def origin(self) -> tuple[str, str]:
        """The address by which `located` finds it again, and the commit that it was pinned to, if there are such."""

    def files(self) -> Mapping[str, Stated] | None:
        """Every file; None where nobody can list them."""

    def stated(self, path: str) -> Stated:
        """What is known of one file. Raises as `open` does."""

    def open(self, path: str) -> "Remote | File":
        """Raises UsageError when there is no such file, Unreachable when it is not to be had."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A file or folder of a store. Whether it is there is looked up in the store's list, where it has one."""

    store: Store
    path: str
    """Without a slash at either end; empty for all of the store."""

    def __str__(self) -> str:
        return self.store.label(self.path)

    def __truediv__(self, name: str) -> "Place":
        return Place(self.store, f"{self.path}/{name}" if self.path else name)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def parent(self) -> "Place":
        return Place(self.store, self.path.rpartition("/")[0])

    def with_suffix(self, suffix: str) -> "Place":
        return self.parent / Path(self.name).with_suffix(suffix).name

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """True too where nobody can tell: opening it will."""
        files = self.store.files()
        return bool(self.path) and (files is None or self.path in files)

    def is_dir(self) -> bool:
        return next(self.below(), None) is not None

    def below(self) -> "Iterator[Place]":
        """Every file under it, in order."""
        start = f"{self.path}/" if self.path else ""
        return (Place(self.store, path) for path in sorted(self.store.files() or ()) if path.startswith(start))

    def iterdir(self) -> "Iterator[Place]":
        """What is directly in it."""
        skipped = len(self.path) + 1 if self.path else 0
        names = dict.fromkeys(place.path[skipped:].partition("/")[0] for place in self.below())
        return (self / name for name in names)


Where = Path | Place


def located(source: Source | Place, commit: str = "") -> Where:
    """Where a source is. For an address that asks its machine, once: what comes later is pinned to that answer.

    With `commit`, the answer that was given before. Raises UsageError when it is not there or may not be read,
    Unreachable when its machine does not answer.
    """
    if not isinstance(source, Address):
        return source
    if source.scheme == "hf":
        from ckptool.convert.remote_hub import hub_place

        return hub_place(source, commit)
    if source.scheme == "s3":
        from ckptool.convert.remote_s3 import bucket_place

        return bucket_place(source)
    from ckptool.convert.remote_web import hub_address, web_place

    hub = hub_address(source)
    return located(hub, commit) if hub is not None else web_place(source)


def enter_at(where: Where, stack: ExitStack) -> Bytes:
    """The file there; `stack` closes it."""
    source = open_at(where)
    stack.push(source.__exit__)
    return source


def open_at(where: Where) -> "File | Remote":
    """The file there, to be closed by the caller. Raises as `File.open` and `Store.open` do."""
    return File.open(where) if isinstance(where, Path) else where.store.open(where.path)


def is_listed(where: Where) -> bool:
    """Whether it can be told what lies beside it: web servers are not asked for what may not be there."""
    return isinstance(where, Path) or where.store.files() is not None


def is_folder(where: Where) -> bool:
    """Whether to look for a folder there. A store is asked for its list only where the name is not that of a file."""
    if isinstance(where, Path):
        return where.is_dir()
    return not where.path or (where.suffix.lower() not in FILES and not where.is_file() and where.is_dir())
