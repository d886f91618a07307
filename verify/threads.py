"""Threads that share jobs: numpy and reading release the interpreter, so a few of them are as fast as memory."""

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from ckptool.convert.crew import crew_size

Job = TypeVar("Job")


def each(jobs: Iterable[Job], do: Callable[[Job], None]) -> None:
    """Do every job, this thread being one of those that do. Raises the first error, when all have stopped."""
    left = iter(jobs)
    lock = threading.Lock()
    failed: list[BaseException] = []

    def following() -> Job | None:
        with lock:
            return None if failed else next(left, None)

    def run() -> None:
        try:
            while (job := following()) is not None:
                do(job)
        except BaseException as error:  # whatever it is, the others have to stop as well
            failed.append(error)

    others = [threading.Thread(target=run, name="verify", daemon=True) for _ in range(crew_size() - 1)]
    for thread in others:
        thread.start()
    run()
    for thread in others:
        thread.join()
    if failed:
        raise failed[0]
