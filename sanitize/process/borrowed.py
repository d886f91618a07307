"""A source on another machine as the process of one file sees it: it asks whoever started it (`lender.py`)."""

import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ckptool.convert.remote import Place, Stated
from ckptool.convert.remote_bytes import Part, Remote
from ckptool.convert.remote_patience import Passing, Patience
from ckptool.errors import CkptoolError, Refused, Unreachable, UsageError
from ckptool.text import escape

ERRORS: dict[str, type[CkptoolError]] = {"UsageError": UsageError, "Refused": Refused}
PATIENCE = Patience(first=0.01)
"""Whoever lends has waited already."""
MOST_HEAD = 1 << 16


@dataclass(slots=True, eq=False)
class Borrowed:
    """The store of one source."""

    channel: socket.socket
    given: str
    """Path of the source in its store."""
    shown: str
    """The source as reports name it."""
    _files: "Mapping[str, Stated] | None" = None
    _is_listed: bool | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def label(self, path: str) -> str:
        """What lies beside the source has its address, but for the name."""
        if path == self.given:
            return self.shown
        return f"{self.shown.rpartition('/')[0]}/{path.rpartition('/')[2]}"

    def origin(self) -> tuple[str, str]:
        return "", ""  # nothing in here can ask it

    def files(self) -> Mapping[str, Stated] | None:
        if self._is_listed is None:
            with self.ask("list", "") as answer:
                found = json.loads(answer.all())
            self._is_listed = found is not None
            self._files = {path: Stated(**stated) for path, stated in found.items()} if found is not None else None
        return self._files

    def stated(self, path: str) -> Stated:
        with self.ask("stated", path) as answer:
            return Stated(**answer.head["stated"])

    def open(self, path: str) -> Remote:
        with self.ask("open", path) as answer:
            size = answer.head["size"]
        label = escape(self.label(path), 1000)
        return Remote(Lendings(self, path), label, size, PATIENCE, aligned=1)

    def ask(self, what: str, path: str, offset: int = 0, length: int = 0) -> "Reply":
        """The answer to one question. Raises the error that it is, Unreachable when nobody answers."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        question = {"what": what, "path": path, "offset": offset, "length": length}
        try:
            with theirs:
                socket.send_fds(self.channel, [json.dumps(question).encode()], [theirs.fileno()])
            return Reply(ours, head_of(ours))
        except OSError as error:
            ours.close()
            raise Unreachable(f"{escape(self.label(path), 1000)}: nobody lends it any more", "run it again") from error
        except BaseException:
            ours.close()
            raise


def head_of(stream: socket.socket) -> dict[str, Any]:
    """The first line of an answer, and not a byte more."""
    line = bytearray()
    while not line.endswith(b"\n"):
        data = stream.recv(1) if len(line) < MOST_HEAD else b""
        if not data:
            raise ConnectionError
        line += data
    head: dict[str, Any] = json.loads(line)
    if "error" in head:
        kind, message, hint = head["error"]
        raise ERRORS.get(kind, Unreachable)(message, hint)
    return head


@dataclass(slots=True, eq=False)
class Reply:
    """An answer, of which the head has been read."""

    stream: socket.socket
    head: dict[str, Any]

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def all(self) -> bytes:
        data = bytearray(self.head["length"])
        view = memoryview(data)
        while view:
            view = view[self.take(view) :]
        return bytes(data)

    def take(self, buffer: memoryview) -> int:
        count = self.stream.recv_into(buffer)
        if not count:
            raise Passing("it is lent no longer")
        return count

    def close(self) -> None:
        self.stream.close()

    def shut(self) -> None:
        with suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True, slots=True)
class Lendings:
    """One file of it."""

    store: Borrowed
    path: str

    def part(self, offset: int, length: int) -> Part:
        return self.store.ask("part", self.path, offset, length)

    def check_unchanged(self) -> None:
        self.store.ask("check", self.path).close()

    def close(self) -> None:
        """The channel belongs to the store."""


def borrowed(channel: socket.socket, given: str, shown: str) -> Place:
    return Place(Borrowed(channel, given, shown), given)
