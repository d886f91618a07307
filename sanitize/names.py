"""The names of outputs: those of the sources, with the ending that they now have, and never one for two."""

import os
from collections import Counter
from hashlib import sha256
from pathlib import Path, PurePosixPath

from ckptool.convert.destination import ENDING
from ckptool.convert.scan import MODEL_ENDINGS
from ckptool.errors import UsageError
from ckptool.sanitize.item import Item
from ckptool.text import escape

QUARANTINE = "quarantine"
INDEX = ".index.json"
RECEIPT = ".receipt.json"
SIGNATURE = ".sig"
LONGEST = 255
"""Bytes of a name, on nearly every file system; that of a receipt's signature has to fit."""


def targets_of(items: list[Item]) -> dict[Item, str]:
    """Item -> its output below the output folder.

    `a.ckpt` becomes a.safetensors; where that is taken by another source, `a.ckpt.safetensors`, as is what has no
    ending of a model: `a.yaml` and `a.png` beside it are hardly ever one. Raises UsageError where that is taken too,
    which takes two sources of one relative name.
    """
    found = {item: short(item.relative) if is_named(item.relative) else long(item.relative) for item in items}
    for item in clashing(found):
        found[item] = long(item.relative)
    for item in clashing(found):
        other = next(one for one in items if one is not item and clash(found[one], found[item]))
        raise UsageError(
            f"{escape(str(item.path), 1000)} and {escape(str(other.path), 1000)} would both be written to"
            f" {escape(found[item])}",
            "sanitize them one after the other, each into a folder of its own",
        )
    return found


def clashing(found: dict[Item, str]) -> list[Item]:
    """Items whose output has the name of another, or of a folder that another is in."""
    counts = Counter(found.values())
    folders = {str(folder) for target in counts for folder in PurePosixPath(target).parents}
    return [item for item, target in found.items() if counts[target] > 1 or target in folders]


def clash(one: str, other: str) -> bool:
    return one == other or PurePosixPath(other) in PurePosixPath(one).parents


def is_named(relative: str) -> bool:
    path = PurePosixPath(relative)
    return path.suffix.lower() in MODEL_ENDINGS or path.name.endswith(INDEX)


def short(relative: str) -> str:
    path = apart(PurePosixPath(relative))
    name = path.name.removesuffix(INDEX)
    return str(path.with_name(fitted(name.rpartition(".")[0] or name)))


def long(relative: str) -> str:
    """The same with the source's own ending kept; a name that has the right one already keeps it."""
    path = apart(PurePosixPath(relative))
    return str(path.with_name(fitted(path.name.removesuffix(ENDING))))


def fitted(stem: str) -> str:
    """The name with its ending; of a very long one the begin, and a mark that tells it from others like it."""
    data, most = os.fsencode(stem), LONGEST - len(ENDING + RECEIPT + SIGNATURE)
    if len(data) > most:
        mark = "-" + sha256(data).hexdigest()[:8]
        stem = data[: most - len(mark)].decode("utf-8", "ignore") + mark
    return stem + ENDING


def apart(path: PurePosixPath) -> PurePosixPath:
    """A folder of the sources that has the name of the quarantine gets another one."""
    first, *rest = path.parts
    return PurePosixPath(first + "_", *rest) if first == QUARANTINE and rest else path


def receipt_of(output: Path) -> Path:
    return output.with_name(output.name + RECEIPT)


def signature_of(path: Path) -> Path:
    """Of a receipt, or of the sums."""
    return path.with_name(path.name + SIGNATURE)
