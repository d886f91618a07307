"""What the opcodes for tuples, lists, dicts and sets do to the machine. Semantics: CPython's Lib/pickletools.py."""

from collections.abc import Callable

from ckptool.convert.machine import Machine
from ckptool.convert.opcode_atoms import Handler
from ckptool.convert.render import atom
from ckptool.convert.values import Call, Dict, Set, Value


def op_list(m: Machine) -> None:
    m.containers += 1
    m.push(m.pop_mark())


def op_tuple(m: Machine) -> None:
    m.containers += 1
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
    m.containers += 1
    m.push(Dict(pairs_of(m, m.pop_mark())))


def op_frozenset(m: Machine) -> None:
    m.containers += 1
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
        raise m.malformed(f"items are appended to {atom(target)}")


def op_additems(m: Machine) -> None:
    items = m.pop_mark()
    target = m.top()
    if type(target) is not Set and type(target) is not Call:
        raise m.malformed(f"members are added to {atom(target)}")
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
        raise m.malformed(f"entries are set on {atom(target)}")
