"""What the opcodes for numbers, texts and bytes do to the machine. Semantics: CPython's Lib/pickletools.py."""

import codecs
from collections.abc import Callable

from ckptool.convert.machine import Machine
from ckptool.convert.values import Blob, Value

LONG_STRING = 1 << 16
"""Longer strings are left in the file, unless a name asks for them."""
NUMBER_LIMIT = 4096
TEXT_LIMIT = 1 << 24
INT_BYTES = 1024
"""Wider integers are refused: decimal conversion of an attacker's integer is quadratic."""
INT_DIGITS = 2048

Handler = Callable[[Machine], None]


def constant(value: Value) -> Handler:
    return lambda m: m.push(value)


def unsigned(m: Machine, width: int) -> int:
    return int.from_bytes(m.stream.take(width), "little")


def long_bytes(m: Machine, width: int) -> None:
    if width > INT_BYTES:
        raise m.malformed(f"an integer of {width:,} bytes")
    m.push(int.from_bytes(m.stream.take(width), "little", signed=True))


def decimal(m: Machine, text: bytes) -> int:
    """A number as Python writes it. Readers differ on all else: to one of them `010` is 8."""
    digits = text.removeprefix(b"-")
    if len(digits) > INT_DIGITS or not digits.isdigit() or (digits[:1] == b"0" and text != b"0"):
        raise m.malformed("not a decimal integer")
    return int(text)


def op_int(m: Machine) -> None:
    text = m.stream.line(TEXT_LIMIT)
    m.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else decimal(m, text))


def op_float(m: Machine) -> None:
    try:
        m.push(float(m.stream.line(NUMBER_LIMIT)))
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
    m.containers += 2  # a Blob and its Record
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
