"""Views with strides are gathered as numpy gathers them, through windows of any size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptool.convert import gather
from ckptool.source import File, Memory, Record
from ckptool.tensor import Inline, Mapped, Span, Strided

WINDOWS = (8, 24, 100, 1000, 1 << 22)

VIEWS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "transposed": (0, (40, 30), (1, 40)),
    "rows apart": (3, (20, 7), (50, 1)),
    "columns apart": (0, (30, 20), (40, 2)),
    "both": (5, (13, 11), (80, 3)),
    "cube turned": (1, (5, 6, 7), (1, 35, 5)),
    "channels last": (0, (2, 3, 4, 5), (60, 1, 15, 3)),
    "six dimensions": (0, (2, 3, 2, 3, 2, 3), (1, 2, 72, 6, 36, 18)),
    "expanded": (7, (30, 40), (0, 1)),
    "expanded inside": (7, (30, 40), (1, 0)),
    "one value": (9, (100, 9), (0, 0)),
    "diagonal": (0, (20,), (41,)),
    "overlapping windows": (0, (50, 30), (2, 1)),
    "ones between": (4, (1, 9, 1, 8, 1), (999, 1, 7, 30, 5)),
    "a long row": (0, (1, 900), (900, 1)),
    "a long column": (0, (600, 1), (2, 1)),
    "the last element": (1199, (1, 1), (1, 1)),
}


def expected(data: bytes, view: Strided) -> bytes:
    items = np.frombuffer(data, f"V{view.width}")[view.offset :]
    steps = [stride * view.width for stride in view.strides]
    return np.lib.stride_tricks.as_strided(items, view.shape, steps, writeable=False).tobytes()


def gathered(data: Any, size: int) -> bytes:
    """The pieces put where they say, each byte once."""
    whole, touched = bytearray(size), bytearray(size)
    for offset, piece in gather.pieces(data):
        whole[offset : offset + len(piece)] = piece
        assert not any(touched[offset : offset + len(piece)])
        touched[offset : offset + len(piece)] = b"\1" * len(piece)
    assert all(touched)
    return bytes(whole)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("name", VIEWS)
def test_every_view_through_every_window(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    offset, shape, strides = VIEWS[name]
    data = bytes(np.random.default_rng(0).integers(0, 256, 1700 * width, np.uint8))
    record = Record.whole(Memory(b"head" + data, "m")).slice(4, len(data))
    view = Strided(record, width, offset, shape, strides)
    for window in WINDOWS:
        monkeypatch.setattr(gather, "WINDOW", window)
        assert gathered(view, int(np.prod(shape)) * width) == expected(data, view), window


def test_views_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(5)
    data = bytes(chance.integers(0, 256, 40_000, np.uint8))
    for _ in range(300):
        rank = int(chance.integers(1, 6))
        shape = tuple(int(n) for n in chance.integers(1, 7, rank))
        strides = tuple(int(n) for n in chance.integers(0, 200, rank))
        view = Strided(Record.whole(Memory(data, "m")), 4, int(chance.integers(0, 3000)), shape, strides)
        monkeypatch.setattr(gather, "WINDOW", int(chance.choice([4, 16, 100, 3000])))
        assert gathered(view, int(np.prod(shape)) * 4) == expected(data, view), (shape, strides)


class Watched(Memory):
    """Remembers the longest read."""

    longest = 0

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self.longest = max(self.longest, len(buffer))
        super().read_into(buffer, offset)


@pytest.mark.parametrize("name", VIEWS)
def test_nothing_longer_than_the_window_is_read_or_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offset, shape, strides = VIEWS[name]
    source = Watched(bytes(1700 * 4), "m")
    view = Strided(Record.whole(source), 4, offset, shape, strides)
    for window in WINDOWS:
        monkeypatch.setattr(gather, "WINDOW", window)
        source.longest = 0
        assert max(len(piece) for _, piece in gather.pieces(view)) <= window
        assert source.longest <= window


def test_a_view_across_two_gigabytes(tmp_path: Path) -> None:
    """In a file with a hole, so that it takes no room."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2 << 30)
        file.seek((2 << 30) - 4)
        file.write(b"last")
    with File.open(path) as source:
        view = Strided(Record.whole(source), 4, 0, (2, 3), ((1 << 28) + 1, (1 << 27) - 1))
        total = ((1 << 28) + 1) + 2 * ((1 << 27) - 1)
        assert total == (2 << 30) // 4 - 1
        found = {offset: bytes(piece) for offset, piece in gather.pieces(view)}
    assert found[20] == b"last"
    assert sum(map(len, found.values())) == 24


def test_a_span_comes_in_chunks_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "CHUNK", 7)
    data = bytes(range(100))
    span = Span(Record.whole(Memory(data, "m")), 10, 50)
    assert gathered(span, 50) == data[10:60]
    assert [offset for offset, _ in gather.pieces(span)] == list(range(0, 50, 7))


def test_a_change_is_applied_once_to_each_element(monkeypatch: pytest.MonkeyPatch) -> None:
    def invert(buffer: memoryview) -> None:
        np.frombuffer(buffer, np.uint8)[:] ^= 0xFF  # type: ignore[misc]

    monkeypatch.setattr(gather, "WINDOW", 64)
    monkeypatch.setattr(gather, "CHUNK", 8)
    data = bytes(range(240))
    record = Record.whole(Memory(data, "m"))
    for plain in (
        Span(record, 0, 240),
        Strided(record, 2, 0, (10, 12), (1, 10)),
        Strided(record, 2, 3, (9, 9), (0, 0)),
    ):
        size = 240 if isinstance(plain, Span) else 2 * int(np.prod(plain.shape))
        unchanged = gathered(plain, size)
        assert gathered(Mapped(plain, 2, invert), size) == bytes(byte ^ 0xFF for byte in unchanged)


def test_computed_bytes_are_given_as_they_are() -> None:
    assert gathered(Inline(b"abc"), 3) == b"abc"
