"""Refuse tensors that a call of the file's could have changed: what the file holds is then not known."""

from collections.abc import Iterable

from ckptool.convert.render import expression
from ckptool.convert.state_dict import BY_HAND, Flat
from ckptool.convert.values import Call, Rebuilt
from ckptool.convert.walk import unseen
from ckptool.errors import Refused


def check_independent(flat: Flat, calls: Iterable[Call]) -> None:
    """Raises Refused when a call is handed a container or tensor of the output.

    That a call is harmless says that it does no harm to a machine; an optimizer does write to what it is given.
    A function could also write through a tensor into the storage that an output tensor shares, so for functions
    (REDUCE) storages count too. An object's state is not held against it: training code often keeps tensors there.
    """
    ours = {id(value) for value in (*flat.containers, *flat.tensors.values())}
    storages = {id(tensor.storage) for tensor in flat.tensors.values()}
    seen: set[int] = set()
    for call in calls:
        for value in unseen([call.function, call.args, call.kwargs], seen):
            shares = type(value) is Rebuilt and call.opcode == "REDUCE" and id(value.storage) in storages
            if id(value) in ours or shares:
                raise Refused(
                    f"its tensors could be changed by {expression(call)} at byte {call.offset:,} of the pickle", BY_HAND
                )
