"""What each pickle opcode does to the machine. Codes and semantics: CPython's Lib/pickletools.py, protocols 0 to 5."""

import codecs
import struct
from collections.abc import Callable

from ckptool.convert.machine import Machine
from ckptool.convert.values import Blob, Call, Dict, Ref, Set, Value

LONG_STRING = 1 << 16
"""Longer strings are left in the file, unless a name asks for them."""
NAME_LIMIT = 4096
TEXT_LIMIT = 1 << 24
INT_BYTES = 1024
"""Wider integers are refused: decimal conversion of an attacker's integer is quadratic."""
INT_DIGITS = 2048

Handler = Callable[[Machine], None]


# --- atoms -----------------------------------------------------------------------------------------------


def constant(value: Value) -> Handler:
    return lambda m: m.push(value)


def unsigned(m: Machine, width: int) -> int:
    return int.from_bytes(m.stream.take(width), "little")


def long_bytes(m: Machine, width: int) -> None:
    if width > INT_BYTES:
        raise m.malformed(f"an integer of {width:,} bytes")
    m.push(int.from_bytes(m.stream.take(width), "little", signed=True))


def decimal(m: Machine, text: bytes) -> int:
    digits = text.strip()
    if len(digits) > INT_DIGITS or not digits.removeprefix(b"-").isdigit():
        raise m.malformed("not a decimal integer")
    return int(digits)


def op_int(m: Machine) -> None:
    text = m.stream.line(TEXT_LIMIT)
    m.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else decimal(m, text))


def op_float(m: Machine) -> None:
    try:
        m.push(float(m.stream.line(NAME_LIMIT)))
    except ValueError:
        raise m.malformed("not a decimal number") from None


def text_value(m: Machine, count: int) -> None:
    if count > LONG_STRING:
        m.push(leave(m, count, text=True))
        return
    try:
        m.push(str(m.stream.take(count), "utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        raise m.malformed("text that is not UTF-8") from None


def byte_value(m: Machine, count: int) -> None:
    m.push(leave(m, count, text=False) if count > LONG_STRING else m.stream.take(count))


def old_string(m: Machine, count: int) -> None:
    """Python 2's str: text where it is UTF-8, else bytes."""
    if count > LONG_STRING:
        m.push(leave(m, count, text=False))
        return
    m.push(text_or_bytes(m.stream.take(count)))


def text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def leave(m: Machine, count: int, text: bool) -> Blob:
    start = m.stream.tell()
    m.stream.skip(count)
    return Blob(m.stream.record.slice(start, count), text)


def op_string(m: Machine) -> None:
    line = m.stream.line(TEXT_LIMIT).strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise m.malformed("a string without quotes")
    try:
        m.push(text_or_bytes(codecs.escape_decode(line[1:-1])[0]))
    except ValueError:
        raise m.malformed("a bad escape in a string") from None


def op_unicode(m: Machine) -> None:
    try:
        m.push(m.stream.line(TEXT_LIMIT).decode("raw-unicode-escape"))
    except UnicodeDecodeError:
        raise m.malformed("a bad escape in a text") from None


# --- containers ------------------------------------------------------------------------------------------


def op_list(m: Machine) -> None:
    m.push(m.pop_mark())


def op_tuple(m: Machine) -> None:
    m.push(tuple(m.pop_mark()))


def fixed_tuple(count: int) -> Handler:
    def handler(m: Machine) -> None:
        stack = m.stack
        if len(stack) < count:
            raise m.malformed("the stack is empty")
        m.containers += 1
        stack[-count:] = [tuple(stack[-count:])]

    return handler


def empty(make: Callable[[], Value]) -> Handler:
    def handler(m: Machine) -> None:
        m.containers += 1
        m.push(make())

    return handler


def pairs_of(m: Machine, items: list[Value]) -> list[tuple[Value, Value]]:
    if len(items) % 2:
        raise m.malformed("a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))


def op_dict(m: Machine) -> None:
    m.push(Dict(pairs_of(m, m.pop_mark())))


def op_frozenset(m: Machine) -> None:
    m.push(Set(m.pop_mark()))


def op_append(m: Machine) -> None:
    value = m.pop()
    extend(m, [value])


def extend(m: Machine, items: list[Value]) -> None:
    target = m.top()
    if type(target) is list:
        target.extend(items)
    elif type(target) is Call:
        target.items.extend(items)
    else:
        raise m.malformed(f"items are appended to a {type(target).__name__}")


def op_additems(m: Machine) -> None:
    items = m.pop_mark()
    target = m.top()
    if type(target) is not Set and type(target) is not Call:
        raise m.malformed(f"members are added to a {type(target).__name__}")
    target.items.extend(items)


def op_setitem(m: Machine) -> None:
    value = m.pop()
    key = m.pop()
    set_items(m, [(key, value)])


def set_items(m: Machine, pairs: list[tuple[Value, Value]]) -> None:
    target = m.top()
    if type(target) is Dict:
        target.pairs.extend(pairs)
    elif type(target) is Call:
        target.items.extend(pairs)
    else:
        # On a list, a tensor or an array this would change bytes that a tensor is made of.
        raise m.malformed(f"entries are set on a {type(target).__name__}")


# --- references and calls --------------------------------------------------------------------------------


def name_line(m: Machine) -> str:
    try:
        return m.stream.line(NAME_LIMIT).decode()
    except UnicodeDecodeError:
        raise m.malformed("a name that is not UTF-8") from None


def op_global(m: Machine) -> None:
    m.refer(name_line(m), name_line(m), "GLOBAL")


def op_stack_global(m: Machine) -> None:
    name = m.pop()
    m.refer(m.pop(), name, "STACK_GLOBAL")


def op_inst(m: Machine) -> None:
    module, name = name_line(m), name_line(m)
    args = tuple(m.pop_mark())
    m.refer(module, name, "INST")
    m.call(m.pop(), args, "INST", make=True)


def op_obj(m: Machine) -> None:
    items = m.pop_mark()
    if not items:
        raise m.malformed("an object without a class")
    m.call(items[0], tuple(items[1:]), "OBJ", make=True)


def op_reduce(m: Machine) -> None:
    args = m.pop()
    m.call(m.pop(), args, "REDUCE")


def op_newobj(m: Machine) -> None:
    args = m.pop()
    m.call(m.pop(), args, "NEWOBJ", make=True)


def op_newobj_ex(m: Machine) -> None:
    kwargs = m.pop()
    args = m.pop()
    m.call(m.pop(), args, "NEWOBJ_EX", kwargs, make=True)


def op_build(m: Machine) -> None:
    """Give state to what the machine made; on anything else it is a call of the file's, so it stays inert."""
    state = m.pop()
    target = m.top()
    if type(target) is Call:
        target.states.append(state)
    elif isinstance(target, Ref):
        m.pop()
        m.record(Call(Ref("", "BUILD on a class", m.at, False, "BUILD", True), (target, state), None, "BUILD", m.at))
    elif hasattr(type(target), "build"):
        target.build(state)
    else:
        raise m.malformed(f"state is given to a {type(target).__name__}")


def op_persid(m: Machine) -> None:
    m.push(m.names.persistent(name_line(m)))


def op_binpersid(m: Machine) -> None:
    m.push(m.names.persistent(m.pop()))


# --- stack, memo, frame ----------------------------------------------------------------------------------


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
    index = decimal(m, m.stream.line(NAME_LIMIT))
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
    b"\x96": lambda m: byte_value(m, unsigned(m, 8)),  # BYTEARRAY8: read-only here, nothing may change it
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
