"""Refuse tensors that a call of the file's could have changed: what the file holds is then not known."""

from collections.abc import Collection, Iterable, Sequence

from ckptool.convert.render import expression
from ckptool.convert.state_dict import BY_HAND, Flat
from ckptool.convert.values import Blob, Call, Rebuilt, Storage, Value
from ckptool.convert.walk import unseen
from ckptool.errors import Refused

OBJECTS = frozenset({"NEWOBJ", "NEWOBJ_EX"})
"""Opcodes that make an object of a class; all others can call a function."""


def check_independent(flat: Flat, calls: Sequence[Call]) -> None:
    """Raises Refused when a call is handed a container or tensor of the output.

    That a call is harmless says that it does no harm to a machine; an optimizer does write to what it is given.
    A function could also write through a tensor into the storage that an output tensor shares, so for functions
    (REDUCE) storages count too. An object's state is not held against it: training code often keeps tensors there.
    """
    ours = {id(value) for value in (*flat.containers, *flat.tensors.values())}
    storages = {identity(tensor.storage) for tensor in flat.tensors.values()}
    # Each kind by itself: what an object was given first still counts when a function is given it.
    functions = [call for call in calls if call.opcode not in OBJECTS]
    objects = [call for call in calls if call.opcode in OBJECTS]
    check(functions, ours, storages)
    check(objects, ours, frozenset())


def check(calls: Iterable[Call], ours: set[int], storages: Collection[object]) -> None:
    seen: set[int] = set()
    for call in calls:
        for value in unseen([call.function, call.args, call.kwargs], seen):
            if id(value) in ours or bytes_behind(value) in storages:
                raise Refused(
                    f"its tensors could be changed by {expression(call)} at byte {call.offset:,} of the pickle", BY_HAND
                )


def bytes_behind(value: Value) -> object:
    """The identity of the bytes that a value is or lies on, None when there are none to be changed."""
    match value:
        case Rebuilt():
            return identity(value.storage)
        case Storage():
            return identity(value)
        case Blob():
            return id(value.record)  # arrays can lie on a bytearray
    return None


def identity(storage: Storage) -> object:
    """Equal for storages that are the same bytes."""
    return storage.key or id(storage.record)
