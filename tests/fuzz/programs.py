"""Random pickle programs over plain values, and inert values as the Python values that they stand for."""

import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from ckptool.convert.values import Dict, Set

ATOMS: tuple[bytes, ...] = (
    b"N", b"\x88", b"\x89", b"I01\n", b"I00\n", b"I7\n", b"I-12\n", b"I010\n", b"I 1\n", b"I1\n", b"I0x1f\n", b"I08\n",
    b"I1_0\n", b"I99999999999999999999\n", b"L5L\n", b"L-5\n", b"L010L\n", b"L0x5L\n", b"J\xff\xff\xff\xff", b"K\x05",
    b"M\x05\x01", b"\x8a\x00", b"\x8a\x01\xff", b"\x8a\x02\xff\x00", b"\x8b\x02\x00\x00\x00\x00\x80", b"F1.5\n",
    b"F1e400\n", b"Fnan\n", b"F 1_0.5 \n", b"F0x1p3\n", b"G\x3f\xf8\x00\x00\x00\x00\x00\x00",
    b"G\x7f\xf8\x00\x00\x00\x00\x00\x01", b"S'a\\x41\\n'\n", b'S"it\'s"\n', b"S'a' \n", b"S 'a'\n", b"S''\n",
    b"S'\\'\n",
    b"Va\\u0041b\n", b"V\\\\u0041\n", b"V\xe9\n", b"V\\ud800\n", b"U\x02ab", b"U\x00", b"T\x01\x00\x00\x00q",
    b"X\x02\x00\x00\x00\xc3\xa9", b"X\x03\x00\x00\x00\xed\xa0\x80", b"\x8c\x01a", b"\x8c\x02\xc3\xa9",
    b"\x8d\x01\x00\x00\x00\x00\x00\x00\x00b", b"B\x01\x00\x00\x00\xff", b"C\x02\x00\xff", b"C\x00",
    b"\x8e\x01\x00\x00\x00\x00\x00\x00\x00z", b"\x96\x01\x00\x00\x00\x00\x00\x00\x00z", b")", b"]", b"}", b"\x8f",
)  # fmt: skip
MADE: tuple[bytes, ...] = (
    b"(", b"t", b"l", b"d", b"\x91", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"\x90", b"0", b"1", b"2",
    b"q\x00", b"q\x01", b"q\x05", b"r\x07\x00\x00\x00", b"p3\n", b"\x94", b"\x94", b"h\x00", b"h\x01", b"h\x05",
    b"j\x07\x00\x00\x00", b"g3\n", b"g03\n", b"\x80\x04", b"\x80\x02", b"Nb",
)  # fmt: skip
NEEDS: dict[bytes, int] = {b"a": 2, b"s": 3, b"\x85": 1, b"\x86": 2, b"\x87": 3, b"0": 1, b"2": 1, b"\x94": 1, b"Nb": 1}
CLOSING = {b"t": 1, b"l": 1, b"d": 1, b"\x91": 1, b"e": 0, b"u": 0, b"\x90": 0, b"1": 0}
"""Opcodes that take what lies above the mark, and how many values they leave."""
WILD = st.sampled_from([*ATOMS, *MADE])
STEPS: dict[bytes, int] = {b"a": -1, b"s": -2, b"\x86": -1, b"\x87": -2, b"0": -1, b"2": 1}


@st.composite
def programs(draw: st.DrawFn) -> bytes:
    """Opcodes that nearly always find on the stack what they need, sometimes not, and a STOP."""
    code: list[bytes] = []
    depths = [0]
    for _ in range(draw(st.integers(0, 40))):
        step = draw(WILD)
        if draw(st.integers(0, 30)) and not fits(step, depths):
            step = draw(st.sampled_from(ATOMS))
        code.append(step)
        follow(step, depths)
    while len(depths) > 1:
        code.append(b"t")
        follow(b"t", depths)
    return b"".join(code) + (b"." if depths[0] else b"N.")


def fits(step: bytes, depths: list[int]) -> bool:
    if step in CLOSING:
        return len(depths) > 1 and (CLOSING[step] == 1 or step == b"1" or depths[-2] > 0)
    return depths[-1] >= NEEDS.get(step, 1 if step[:1] in b"qrp" else 0)


def follow(step: bytes, depths: list[int]) -> None:
    """Keep count of the values above each mark."""
    if step == b"(":
        depths.append(0)
    elif step in CLOSING:
        if len(depths) > 1:
            depths.pop()
        depths[-1] += CLOSING[step]
    elif step in ATOMS or step[:1] in b"hjg":
        depths[-1] += 1
    else:
        depths[-1] = max(0, depths[-1] + STEPS.get(step, 0))


class Thaw:
    """Makes the Python value that an inert one stands for, shared parts and cycles kept."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) in self.made:
            return self.made[id(value)]
        kind = type(value)
        make: Callable[[], Any] | None = {list: list, Dict: dict}.get(kind)
        if make is not None:
            made = self.made[id(value)] = make()
            if kind is list:
                made.extend(self(part) for part in value)
            else:
                for key, part in value.pairs:
                    made[self(key)] = self(part)
            return made
        if kind is tuple and value:
            return self.made.setdefault(id(value), tuple(self(part) for part in value))
        if kind is Set:
            return self.made.setdefault(id(value), frozenset(self(part) for part in value.items))
        return value


def shape_of(value: Any, seen: dict[int, int] | None = None) -> Any:
    """A value spelled out with types, bits of floats, order of dicts and which parts are the same object."""
    seen = {} if seen is None else seen
    kind = type(value)
    if kind in (set, frozenset):
        # Equal sets may list their members in different orders.
        return "set", sorted((shape_of(part) for part in value), key=repr)
    if kind in (list, dict) or (kind is tuple and value):
        if id(value) in seen:
            return "same", seen[id(value)]
        seen[id(value)] = len(seen)
        parts = [part for pair in value.items() for part in pair] if kind is dict else value
        return kind.__name__, [shape_of(part, seen) for part in parts]
    if kind is float:
        return "float", struct.pack(">d", value)
    return ("bytes", bytes(value)) if kind is bytearray else (kind.__name__, value)
