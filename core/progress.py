"""A bar of bytes or other units with rate and time left, on stderr, and only on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(total: int, label: str, hidden: bool, unit: str = "B") -> Iterator[Callable[[int], None]]:
    """Yields a function that is told of units as they are done."""
    if hidden or not sys.stderr.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm  # costs as much to import as a small file takes to convert

    with tqdm(total=total, desc=label, unit=unit, unit_scale=unit == "B", leave=False, file=sys.stderr) as progress:
        yield lambda count: void(progress.update(count))


def void(_: object) -> None:
    """Callers want no answer."""
