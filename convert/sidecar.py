"""The `<stem>.yaml` beside a checkpoint: it says how the model is to be run, so it is carried along."""

import os
from pathlib import Path

from ckptool.convert.remote import Where, is_listed, open_at
from ckptool.errors import UsageError
from ckptool.output import Output, write_at
from ckptool.source import Record
from ckptool.tensor import Dropped
from ckptool.text import escape

MAX_SIZE = 1 << 20


def find_sidecar(source: Where, target: Path, force: bool) -> tuple[bytes | None, Path, Dropped | None]:
    """The sidecar's bytes (None when there is none to carry), where they go, and why they are left out if they are.

    Raises UsageError when another file stands where it would go.
    """
    goal = target.with_suffix(".yaml")
    if not is_listed(source) or not source.is_file():
        return None, goal, None
    path = source.with_suffix(".yaml")
    if not is_file_there(path) or (isinstance(path, Path) and same(path, goal)):
        return None, goal, None
    if isinstance(source, Path) and isinstance(path, Path) and leads_out(source, path):
        # In a download cache both are links into one folder; a link elsewhere may stand for anybody's secret.
        return None, goal, Dropped(path.name, "a sidecar that is a link out of the model's folder")
    with open_at(path) as file:
        if file.size > MAX_SIZE:
            return None, goal, Dropped(path.name, f"a sidecar of more than {MAX_SIZE:,} bytes")
        data = Record.whole(file).read(0, file.size)
    if not is_plain(data):
        return None, goal, Dropped(path.name, "a sidecar with YAML tags, which can run code in a careless loader")
    if goal.exists() and not force:
        if goal.is_file() and goal.stat().st_size == len(data) and goal.read_bytes() == data:
            return None, goal, None
        raise UsageError(
            f"{escape(str(goal), 1000)}: exists already, and differs from the source's", "--force replaces it"
        )
    return data, goal, None


def is_file_there(path: Where) -> bool:
    """Whether it is a file; nothing has a name that is longer than file systems take."""
    try:
        return path.is_file()
    except OSError:
        return False


def leads_out(source: Path, path: Path) -> bool:
    return path.resolve().parent not in (path.parent.resolve(), source.resolve().parent)


def is_plain(data: bytes) -> bool:
    """No tag can be in it: they begin with `!`, however they are spelled, and other encodings could hide one."""
    try:
        return "!" not in data.decode("utf-8") and b"\0" not in data
    except UnicodeDecodeError:
        return False


def same(path: Path, other: Path) -> bool:
    return path == other or (other.exists() and os.path.samefile(path, other))


def carry(data: bytes, goal: Path, force: bool) -> None:
    with Output(goal, len(data), force) as output:
        write_at(output.fd, data, 0)
