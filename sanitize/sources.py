"""What is to be sanitized: files, folders and globs as a list of items, each with the name that it keeps."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from ckptool.address import Address, Source
from ckptool.convert.folders import is_index
from ckptool.convert.remote import Where
from ckptool.convert.scan import MODEL_ENDINGS
from ckptool.errors import UsageError
from ckptool.sanitize.item import INDEX_ENDINGS, Item, shards_of
from ckptool.sanitize.outputs import Outputs
from ckptool.sanitize.places import items_at
from ckptool.text import escape


def items_of(sources: Sequence[Source], outputs: Outputs) -> list[Item]:
    """Every item of the sources, in the order of their names; what lies among the outputs is none.

    Raises UsageError for a source that is not there, and for one that the output folder would mix with, Unreachable
    for one whose machine does not answer.
    """
    files: list[Path] = []
    found: list[Item] = []
    for source in sources:
        if isinstance(source, Address):
            outputs.check_apart(source)
            found += items_at(source)
            continue
        for path in expand(source):
            outputs.check_apart(path)
            if path.is_dir():
                found += walk(path, outputs.folder)
            else:
                files.append(path)
    found += listed(files)
    unique = {identity(item.path): item for item in reversed(found)}
    return sorted(unique.values(), key=lambda item: item.relative)


def identity(path: Where) -> str:
    return os.path.abspath(path) if isinstance(path, Path) else str(path)


def expand(source: Path) -> list[Path]:
    """The source itself, or what its pattern matches."""
    if os.path.lexists(source):
        return [source]
    matches = sorted(glob.glob(str(source), recursive=True)) if glob.has_magic(str(source)) else []
    if not matches:
        raise UsageError(f"{escape(str(source), 1000)}: there is no such file", "check the path")
    return [Path(match) for match in matches]


def listed(files: list[Path]) -> list[Item]:
    """Files that were named: by their names alone where those differ, else by what their paths do not share."""
    names = [path.name for path in files]
    if len(set(names)) == len(files):
        return [Item(path, path.name, True) for path in files]
    whole = {os.path.abspath(path) for path in files}
    common = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [Item(path, Path(os.path.relpath(os.path.abspath(path), common)).as_posix(), True) for path in files]


def walk(root: Path, out: Path) -> Iterator[Item]:
    """Every file below a folder that may be a model; what it is, its own process tells."""
    apart = out.resolve()
    unseen: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=unseen.append):
        folders[:] = sorted(name for name in folders if Path(folder, name).resolve() != apart)
        taken: set[str] = set()
        items: list[Item] = []
        for name in sorted(names):
            path = Path(folder, name)
            if is_index(path) and path.is_file() and not path.is_symlink():
                shards = shards_of(path)
                taken |= shards
                # One of a model that cannot be followed is refused: its shards alone are not the model.
                if shards or name.endswith(INDEX_ENDINGS):
                    items.append(Item(path, below(path, root), True))
            elif path.is_file() or path.suffix.lower() in MODEL_ENDINGS:
                items.append(checked(path, root))
        # An index is no shard, whatever another or itself says: so nothing can be hidden behind one that is refused.
        yield from (item for item in items if item.path.name not in taken or is_index(item.path))
    for error in unseen:
        path = Path(os.fsdecode(error.filename))
        yield Item(path, below(path, root), True, f"cannot be looked into: {error.strerror}")


def below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def checked(path: Path, root: Path) -> Item:
    """A link that leads out of an upload may stand for a file of somebody else, so it is not followed."""
    item = Item(path, below(path, root), False)
    if not path.is_symlink():
        return item
    goal, inside = path.resolve(), [root.resolve()]
    if root.parent.name == "snapshots":  # the cache of the Hub: links to the files of the same repository
        inside.append(root.resolve().parent.parent / "blobs")
    if any(goal.is_relative_to(folder) for folder in inside):
        return item
    return replace(item, listed=True, problem="is a link out of the folder that was given")


def share(items: list[Item], shard: tuple[int, int] | None) -> list[Item]:
    """The items of one shard of several: each is in exactly one, whatever the others are."""
    if shard is None:
        return items
    mine, every = shard
    return [item for item in items if number(item.relative) % every == mine - 1]


def number(relative: str) -> int:
    return int.from_bytes(sha256(os.fsencode(relative)).digest()[:8], "big")
