"""Refuse tensors that a call of the file's could have changed: what the file holds is then not known."""

from collections.abc import Iterable

from ckptool.convert.grades import grade
from ckptool.convert.render import expression
from ckptool.convert.state_dict import BY_HAND, Flat
from ckptool.convert.values import Call, Rebuilt, Ref
from ckptool.convert.walk import unseen
from ckptool.errors import Refused


def check_independent(flat: Flat, calls: Iterable[Call]) -> None:
    """Raises Refused when a call of unknown effect is handed a container or tensor of the output.

    A function could also write through a tensor into the storage that an output tensor shares, so for functions
    (REDUCE) storages count too. An object's state is not held against it: training code often keeps tensors there.
    """
    ours = {id(value) for value in (*flat.containers, *flat.tensors.values())}
    storages = {id(tensor.storage) for tensor in flat.tensors.values()}
    seen: set[int] = set()
    for call in calls:
        if is_harmless(call):
            continue
        for value in unseen([call.function, call.args, call.kwargs], seen):
            shares = type(value) is Rebuilt and call.opcode == "REDUCE" and id(value.storage) in storages
            if id(value) in ours or shares:
                raise Refused(f"its tensors could be changed by {expression(call)} at byte {call.offset:,} of the pickle", BY_HAND)


def is_harmless(call: Call) -> bool:
    function = call.function
    return type(function) is Ref and grade(function.module, function.name).level == "harmless"
