"""How long another machine is waited for, and when to give up."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ckptool.errors import Unreachable

T = TypeVar("T")


class Passing(Exception):
    """Something that may well work the next time. `wait` is what the other side asks for, in seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class Patience:
    """How long another machine is waited for."""

    timeout: float = 30.0
    """Seconds for a connection, and between two pieces of an answer."""
    first: float = 0.5
    """Seconds before the second attempt; twice as many before each further one."""
    longest: float = 60.0
    """More seconds than this are not waited, whoever asks for them."""
    in_a_row: int = 5
    """Failures without a byte between them."""
    in_all: int = 100
    slowest: int = 1024
    """Bytes a second, on average over an answer."""


class Waits:
    """Failures of one source, and the waiting after each."""

    def __init__(self, label: str, patience: Patience) -> None:
        self.label = label
        self.patience = patience
        self.failures = 0
        self.stopped = threading.Event()

    def check(self) -> None:
        """Raises Unreachable when all reading was to stop."""
        if self.stopped.is_set():
            raise Unreachable(f"{self.label}: reading from another machine was stopped", "run it again")

    def wait(self, error: Passing, in_a_row: int) -> None:
        """Before the next attempt. Raises Unreachable when there were enough of them."""
        self.check()
        self.failures += 1
        pause = pause_of(self.patience, error, in_a_row)
        if in_a_row >= self.patience.in_a_row or self.failures > self.patience.in_all or pause is None:
            raise Unreachable(f"{self.label}: {error}", later(error)) from error
        self.stopped.wait(pause)


def pause_of(patience: Patience, error: Passing, in_a_row: int) -> float | None:
    """Seconds to wait, with chance in them, so that many workers do not come back together; None: not that long."""
    own = min(patience.first * 2.0 ** (in_a_row - 1), patience.longest) * random.uniform(0.5, 1)
    if error.wait is None:
        return own
    return None if error.wait > patience.longest else max(error.wait, 0.0)


def later(error: Passing) -> str:
    if error.wait is not None:
        return f"it was tried several times: run it again in {error.wait:,.0f} s"
    return "it was tried several times: check the address and the network, or run it again later"


def patiently(ask: Callable[[], T], label: str, patience: Patience) -> T:
    """The answer, asked for again where that may help. Raises Unreachable when it was asked for often enough."""
    waits, failed = Waits(label, patience), 0
    while True:
        try:
            return ask()
        except Passing as error:
            failed += 1
            waits.wait(error, failed)
