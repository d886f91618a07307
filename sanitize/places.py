"""What is to be sanitized on other machines: repositories, buckets, and files of web servers, as a list of items."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from ckptool.address import NO_NAMES, Address
from ckptool.convert.folders import is_index
from ckptool.convert.remote import Place, is_folder, is_listed, located
from ckptool.errors import UsageError
from ckptool.sanitize.item import INDEX_ENDINGS, Item, shards_of
from ckptool.text import escape

LONGEST = 1000


def items_at(source: Address) -> list[Item]:
    """Every item of an address: of a file, of all below a folder, or of what a pattern of * and ** matches.

    Raises UsageError when there is none, Unreachable when its machine does not answer.
    """
    plain, pattern = split(source)
    place = located(plain)
    assert isinstance(place, Place)  # an address is no path
    if pattern:
        wanted = re.compile(translated(pattern))
        found = [item for item in walk(place) if wanted.fullmatch(item.relative)]
        found = [replace(item, listed=True) for item in found]
    elif is_folder(place):
        found = list(walk(place))
    elif is_listed(place) and not place.is_file():
        found = []
    else:
        found = [Item(place, source.name, True)]
    if not found:
        raise UsageError(f"{escape(str(source), LONGEST)}: there is no such file", "check the address")
    return [named(item) for item in found]


def split(source: Address) -> tuple[Address, str]:
    """The folder above a pattern, and the pattern; all of an address that has none, or whose host gives no lists."""
    if source.scheme in ("http", "https") or "*" not in source.url:
        return source, ""
    parts = source.url.split("/")
    at = next(number for number, part in enumerate(parts) if "*" in part)
    if at < (4 if source.scheme == "hf" else 3):  # hf: // owner / repo / …, s3: // bucket / …
        raise UsageError(f"{escape(str(source), LONGEST)}: has a * in its name", "name one repository or bucket")
    return Address("/".join(parts[:at])), "/".join(parts[at:])


def translated(pattern: str) -> str:
    """As a regular expression: ** is any number of folders, * anything but a slash."""
    if pattern.count("*") > 16:
        raise UsageError(f"{escape(pattern, 100)}: has too many * in it", "give a folder, or the files one by one")
    found = re.escape(pattern).replace(r"\*\*/", "(?:[^/]+/)*")
    return re.sub(r"(?:\\\*)+", "[^/]*", found)


def walk(root: Place) -> Iterator[Item]:
    """Every file below a folder that may be a model; what it is, its own process tells."""
    folders: dict[str, list[Place]] = defaultdict(list)
    for place in root.below():
        folders[place.parent.path].append(place)
    start = len(root.path) + 1 if root.path else 0
    for places in folders.values():
        indexes = {place: shards_of(place) for place in places if is_index(place)}
        taken = set().union(*indexes.values())
        for place in places:
            relative = place.path[start:]
            if place in indexes:
                # One of a model that cannot be followed is refused: its shards alone are not the model.
                if indexes[place] or place.name.endswith(INDEX_ENDINGS):
                    yield Item(place, relative, True)
            elif place.name not in taken:
                yield Item(place, relative, False)


def named(item: Item) -> Item:
    """A bucket takes names that no folder does: such a file is refused under another one."""
    parts = item.relative.split("/")
    if not NO_NAMES & set(parts) and "\0" not in item.relative:
        return item
    fit = "/".join("_" if part in NO_NAMES else part.replace("\0", "_") for part in parts)
    return replace(item, relative=fit, listed=True, problem="has a name that no file can have")
