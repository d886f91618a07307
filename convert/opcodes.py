"""The table of pickle's opcodes, protocols 0 to 5. Codes and semantics: CPython's Lib/pickletools.py."""

import struct

from ckptool.convert.machine import Machine
from ckptool.convert.opcode_atoms import (
    TEXT_LIMIT,
    Handler,
    byte_value,
    constant,
    decimal,
    leave,
    long_bytes,
    old_string,
    op_float,
    op_int,
    op_string,
    op_unicode,
    text_value,
    unsigned,
)
from ckptool.convert.opcode_calls import (
    op_binpersid,
    op_build,
    op_global,
    op_inst,
    op_newobj,
    op_newobj_ex,
    op_obj,
    op_persid,
    op_reduce,
    op_stack_global,
)
from ckptool.convert.opcode_containers import (
    empty,
    extend,
    fixed_tuple,
    op_additems,
    op_append,
    op_dict,
    op_frozenset,
    op_list,
    op_setitem,
    op_tuple,
    pairs_of,
    set_items,
)
from ckptool.convert.values import Dict, Set

INDEX_LIMIT = 64


def op_proto(m: Machine) -> None:
    version = unsigned(m, 1)
    if version > 5:
        raise m.malformed(f"protocol {version} does not exist")


def op_frame(m: Machine) -> None:
    size = unsigned(m, 8)
    if size > m.stream.left:
        raise m.malformed(f"a frame of {size:,} bytes where {m.stream.left:,} are left")


def op_pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def op_dup(m: Machine) -> None:
    m.push(m.top())


def op_pop_mark(m: Machine) -> None:
    m.pop_mark()


def index_line(m: Machine) -> int:
    index = decimal(m, m.stream.line(INDEX_LIMIT))
    if not 0 <= index < 1 << 32:
        raise m.malformed("a memo index out of range")
    return index


TABLE: dict[bytes, Handler] = {
    b"N": constant(None),
    b"\x88": constant(True),
    b"\x89": constant(False),
    b"I": op_int,
    b"J": lambda m: m.push(int.from_bytes(m.stream.take(4), "little", signed=True)),
    b"K": lambda m: m.push(m.stream.take(1)[0]),
    b"M": lambda m: m.push(unsigned(m, 2)),
    b"L": lambda m: m.push(decimal(m, m.stream.line(TEXT_LIMIT).removesuffix(b"L"))),
    b"\x8a": lambda m: long_bytes(m, unsigned(m, 1)),
    b"\x8b": lambda m: long_bytes(m, unsigned(m, 4)),
    b"F": op_float,
    b"G": lambda m: m.push(struct.unpack(">d", m.stream.take(8))[0]),
    b"S": op_string,
    b"T": lambda m: old_string(m, unsigned(m, 4)),
    b"U": lambda m: old_string(m, unsigned(m, 1)),
    b"V": op_unicode,
    b"X": lambda m: text_value(m, unsigned(m, 4)),
    b"\x8c": lambda m: text_value(m, unsigned(m, 1)),
    b"\x8d": lambda m: text_value(m, unsigned(m, 8)),
    b"B": lambda m: byte_value(m, unsigned(m, 4)),
    b"C": lambda m: byte_value(m, unsigned(m, 1)),
    b"\x8e": lambda m: byte_value(m, unsigned(m, 8)),
    b"\x96": lambda m: m.push(leave(m, unsigned(m, 8), text=False)),  # BYTEARRAY8
    b"]": empty(list),
    b"l": op_list,
    b"a": op_append,
    b"e": lambda m: extend(m, m.pop_mark()),
    b")": constant(()),
    b"t": op_tuple,
    b"\x85": fixed_tuple(1),
    b"\x86": fixed_tuple(2),
    b"\x87": fixed_tuple(3),
    b"}": empty(Dict),
    b"d": op_dict,
    b"s": op_setitem,
    b"u": lambda m: set_items(m, pairs_of(m, m.pop_mark())),
    b"\x8f": empty(lambda: Set([])),
    b"\x90": op_additems,
    b"\x91": op_frozenset,
    b"c": op_global,
    b"\x93": op_stack_global,
    b"i": op_inst,
    b"o": op_obj,
    b"R": op_reduce,
    b"\x81": op_newobj,
    b"\x92": op_newobj_ex,
    b"b": op_build,
    b"P": op_persid,
    b"Q": op_binpersid,
    b"\x80": op_proto,
    b"\x95": op_frame,
    b"(": Machine.mark,
    b"0": op_pop,
    b"1": op_pop_mark,
    b"2": op_dup,
    b"p": lambda m: m.put(index_line(m)),
    b"q": lambda m: m.put(unsigned(m, 1)),
    b"r": lambda m: m.put(unsigned(m, 4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(index_line(m)),
    b"h": lambda m: m.get(unsigned(m, 1)),
    b"j": lambda m: m.get(unsigned(m, 4)),
}

HANDLERS: list[Handler | None] = [TABLE.get(bytes([code])) for code in range(256)]
