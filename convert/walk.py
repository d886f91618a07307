"""Walk graphs of inert values: with a visited set, without recursion, so that a pickle cannot make it long."""

from collections.abc import Iterable, Iterator

from ckptool.convert.numpy_names import Array
from ckptool.convert.values import Call, Dict, Module, Rebuilt, Ref, Set, Storage, Unusable, Value


def parts(value: Value) -> Iterable[Value]:
    """What a value is made of, one level down."""
    kind = type(value)
    if kind is list or kind is tuple:
        return value  # type: ignore[no-any-return]
    if kind is Dict:
        return (part for pair in value.pairs for part in pair)
    if kind is Set:
        return value.items  # type: ignore[no-any-return]
    if kind is Module:
        return (value.state,)
    if kind is Array:
        return (value.value,)
    if kind is Call:
        return (value.function, value.args, value.kwargs, *value.states, *value.items)
    return ()


def reachable(start: Iterable[Value]) -> Iterator[Value]:
    """Each container, call and tensor that can be reached, once."""
    yield from unseen(start, set())


def unseen(start: Iterable[Value], seen: set[int]) -> Iterator[Value]:
    """The same, leaving out what `seen` holds and adding to it."""
    todo = list(start)
    while todo:
        value = todo.pop()
        if type(value) in LEAVES or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        todo.extend(parts(value))


LEAVES = frozenset({type(None), bool, int, float, str, bytes})
TENSORS = frozenset({Rebuilt, Storage, Unusable})
"""What a branch is kept for: tensors, and the bytes that something unknown may make one of."""


def tensors_in(value: Value) -> int:
    """How many tensors a value holds, in whatever it is made of."""
    return sum(type(found) in (Rebuilt, Unusable) for found in reachable([value]))


def is_rebuilder(call: Call) -> bool:
    """A call that would make a tensor, of arguments that mean nothing here."""
    return type(call.function) is Ref and call.function.meaning is not None and call.function.module == "torch._utils"


class Bearers:
    """Tells which containers hold tensors, so that branches without any are dropped as a whole."""

    def __init__(self, root: Value) -> None:
        parents: dict[int, list[int]] = {}
        bearing = [id(root)] if type(root) in TENSORS else []
        todo = [root]
        seen = {id(root)}
        while todo:
            value = todo.pop()
            for part in parts(value):
                kind = type(part)
                if kind in LEAVES:
                    continue
                parents.setdefault(id(part), []).append(id(value))
                if id(part) not in seen:
                    seen.add(id(part))
                    if kind in TENSORS or (kind is Call and is_rebuilder(part)):
                        bearing.append(id(part))
                    if kind not in TENSORS:
                        todo.append(part)
        self._ids = set(bearing)
        while bearing:
            for parent in parents.get(bearing.pop(), ()):
                if parent not in self._ids:
                    self._ids.add(parent)
                    bearing.append(parent)

    def __contains__(self, value: Value) -> bool:
        return id(value) in self._ids
