"""One model that is to be sanitized: a file, or the index of one in several files."""

from dataclasses import dataclass
from pathlib import Path

from ckptool.convert.folders import shard_paths
from ckptool.convert.remote import Where
from ckptool.errors import CkptoolError

SMALL_INDEX = 1 << 23
"""Bytes of an index that is looked at before any child is: real ones have some 100 kB."""
INDEX_ENDINGS = (".safetensors.index.json", ".bin.index.json")


@dataclass(frozen=True, slots=True)
class Item:
    """A source, and the name that it keeps."""

    path: Where
    relative: str
    """Its name in receipts: below the folder that was given, with slashes."""
    listed: bool
    """It was named itself: then it is never passed over."""
    problem: str = ""
    """Why it is refused without a look at it."""


def shards_of(index: Where) -> set[str]:
    """The names of the files that an index joins; empty where it is none that can be followed."""
    try:
        size = index.stat().st_size if isinstance(index, Path) else index.store.stated(index.path).size
        if size > SMALL_INDEX:
            return set()
        shards = shard_paths(index)
    except (CkptoolError, OSError):
        return set()
    linked = any(isinstance(shard, Path) and shard.is_symlink() for shard in shards)
    return set() if linked else {shard.name for shard in shards}
