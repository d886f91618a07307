"""Lends a source on another machine to the process of one file, which has no network and no login.

That process asks by datagrams of JSON, each with a socket that takes the answer: a line of JSON, and the bytes behind
it. `borrowed.py` is the other side.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ckptool.convert.remote import Place
from ckptool.errors import CkptoolError, Refused
from ckptool.sanitize.process.lent import Lent
from ckptool.source import Distant

MOST_REQUEST = 1 << 14
AT_ONCE = 64
PATIENCE = 900.0
"""Seconds that an answer waits to be taken."""


class Lender:
    """Context of one job: `channel` is for its process, everything else stays here."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.lent = Lent(place, folder)
        self.channel, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._serving = threading.Thread(target=self._serve, name="lend", daemon=True)
        self._room = threading.Semaphore(AT_ONCE)
        self._answers: set[Answer] = set()
        self._closed = False

    def __enter__(self) -> "Lender":
        self._serving.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """End every answer first, then close what they read."""
        self._closed = True
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)  # wakes who waits in it
        self.lent.stop()
        while self._serving.is_alive() or self._answers:  # it may still begin what was asked for before
            for answer in list(self._answers):
                answer.stop()
            time.sleep(0.001)
        self._ours.close()
        self.channel.close()
        self.lent.__exit__(None, None, None)

    def _serve(self) -> None:
        while True:
            try:
                data, numbers, _, _ = socket.recv_fds(self._ours, MOST_REQUEST, 1)
            except OSError:
                return
            if self._closed and not numbers:
                return
            for number in numbers:
                reply = stream_of(number)
                if reply is None:
                    continue
                self._room.acquire()
                answer = Answer(self.lent, data, reply)
                self._answers.add(answer)
                threading.Thread(target=self._answer, args=(answer,), daemon=True).start()

    def _answer(self, answer: "Answer") -> None:
        try:
            answer.run()
        finally:
            self._answers.remove(answer)
            self._room.release()


def stream_of(number: int) -> socket.socket | None:
    """What takes an answer. None, and closed, where it is anything but a pair's end: nothing else is written to."""
    try:
        reply = socket.socket(fileno=number)
    except OSError:
        os.close(number)
        return None
    if (reply.family, reply.type) == (socket.AF_UNIX, socket.SOCK_STREAM):
        return reply
    reply.close()
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The answer to one question, through a socket of its own. It is closed early where bytes do not come."""

    lent: Lent
    question: bytes
    reply: socket.socket

    def run(self) -> None:
        with self.reply, suppress(OSError):  # nobody may take it any more
            self.reply.settimeout(PATIENCE)
            try:
                self.give(*asked(self.question))
            except CkptoolError as error:
                self.say({"error": [type(error).__name__, error.message, error.hint]})

    def stop(self) -> None:
        """Nobody will take it: end it, in whatever thread."""
        with suppress(OSError):
            self.reply.shutdown(socket.SHUT_RDWR)

    def say(self, head: dict[str, Any], body: bytes = b"") -> None:
        self.reply.sendall(json.dumps(head).encode() + b"\n" + body)

    def give(self, what: str, path: str, offset: int, length: int) -> None:
        match what:
            case "list":
                files = self.lent.beside()
                body = json.dumps(files and {name: asdict(stated) for name, stated in files.items()}).encode()
                self.say({"length": len(body)}, body)
            case "stated":
                self.say({"stated": asdict(self.lent.stated(path))})
            case "open":
                self.say({"size": self.lent.file(path).size})
            case "check":
                source = self.lent.file(path).source
                if isinstance(source, Distant):
                    source.check_unchanged()
                self.say({})
            case "part":
                self.part(path, offset, length)
            case _:
                raise no_question()

    def part(self, path: str, offset: int, length: int) -> None:
        spool = self.lent.range_of(path, offset, length)
        self.say({"length": length})
        try:
            for piece in spool.pieces(offset, length):
                self.reply.sendall(piece)
        except CkptoolError as error:
            self.lent.failed(path, error)  # the head is out: the next question about it is told


def asked(question: bytes) -> tuple[str, str, int, int]:
    """A question's parts, whoever asks it. Raises Refused."""
    try:
        found = json.loads(question)
        what, path, offset, length = found["what"], found["path"], found["offset"], found["length"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise no_question() from error
    if not (type(what) is type(path) is str and type(offset) is type(length) is int and is_utf8(path)):
        raise no_question()
    return what, path, offset, length


def is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can spell and no address has
        return False
    return True


def no_question() -> Refused:
    return Refused("the process of the file asks for something that there is not", "do not trust the file")
