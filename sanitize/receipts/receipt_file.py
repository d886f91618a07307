"""A receipt as it lies in an output folder: nothing in it is believed before it is checked."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from ckptool.convert.destination import ENDING
from ckptool.errors import Malformed, UsageError
from ckptool.report import Report
from ckptool.sanitize.names import RECEIPT
from ckptool.sanitize.receipts.shape import is_changed, is_count, is_hash, is_judged
from ckptool.text import escape

MOST = 1 << 26


def regular(path: Path) -> int:
    """An open regular file. Raises OSError for a link, and for a pipe: none is waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is no regular file")


def read_small(path: Path, most: int) -> bytes:
    """All of a regular file. Raises OSError for one that is larger, for a link, and for a pipe: none is waited for."""
    with open(regular(path), "rb") as file:
        data = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)  # which is set aside at once
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return data


def why(error: OSError) -> str:
    return "it is a link" if error.errno == errno.ELOOP else str(error.strerror or error)


def read_receipt(path: Path) -> Report:
    """Raises UsageError when it cannot be read, Malformed when it is none."""
    try:
        data = read_small(path, MOST)
    except OSError as error:
        raise UsageError(
            f"{escape(str(path), 1000)}: cannot be read: {why(error)}", "sanitize its source again"
        ) from error
    return receipt_in(data, path)


def receipt_in(data: bytes, path: Path) -> Report:
    """What the bytes of a file say. Raises Malformed when it is no receipt, or not the one of what lies beside it."""
    label = escape(str(path), 1000)
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not is_receipt(found):
        raise Malformed(f"{label}: is no receipt", "remove it, and sanitize its source again")
    if not is_for_neighbours(found, path):
        raise Malformed(f"{label}: is the receipt of another file", "remove it, and sanitize its source again")
    return dict(found)


def is_receipt(found: Any) -> bool:
    """Whether all is there that is relied on."""
    if not isinstance(found, dict) or found.get("receipt") != 1:
        return False
    parts = found.get("parts")
    files = [found.get("input"), *(parts if isinstance(parts, list) else [None])]
    output = found.get("output")
    sidecar = output.get("sidecar") if isinstance(output, dict) else None
    return (
        all(is_input(file) for file in files)
        and is_file(output)
        and (sidecar is None or is_file(sidecar))
        and isinstance(found.get("policy"), dict)
        and isinstance(found.get("tool"), dict)
        and all(isinstance(found.get(key), str) for key in ("source", "action"))
        and is_judged(found)
        and is_changed(found.get("changed"))
    )


def is_input(found: Any) -> bool:
    """A file of this machine with its time, or one of another with its version, and its hash where that is known."""
    if isinstance(found, dict) and isinstance(found.get("version"), str):
        return is_file(found | {"sha256": found.get("sha256") or "0" * 64})
    return is_file(found) and type(found.get("mtime_ns")) is int


def is_file(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("name"), str)
        and "/" not in found["name"]
        and is_hash(found.get("sha256"))
        and is_count(found.get("bytes"))
    )


def is_for_neighbours(receipt: Report, path: Path) -> bool:
    """Whether its files are those that its own name allows: a model, and the settings of that model."""
    own = path.name.removesuffix(RECEIPT)
    sidecar = receipt["output"].get("sidecar")
    return (
        own.endswith(ENDING)
        and receipt["output"]["name"] == own
        and (sidecar is None or sidecar["name"] == output_of(path).with_suffix(".yaml").name)
    )


def output_of(receipt: Path) -> Path:
    """The file that a receipt is for: by the receipt's name, whatever it says inside."""
    return receipt.with_name(receipt.name.removesuffix(RECEIPT))


def files_of(path: Path, receipt: Report) -> list[tuple[Path, str]]:
    """The output of a receipt and what was carried along, each with its hash."""
    output = output_of(path)
    found = [(output, receipt["output"]["sha256"])]
    if receipt["output"].get("sidecar") is not None:
        found.append((output.with_suffix(".yaml"), receipt["output"]["sidecar"]["sha256"]))
    return found
