"""Write an inert value out as the Python expression that it stands for, cut to a readable length."""

from collections.abc import Sequence

from ckptool.convert.values import Blob, Call, Dict, DType, Module, Rebuilt, Ref, Set, Storage, Unusable, Value
from ckptool.text import CUT, escape

LIMIT = 300
MAX_DEPTH = 8
MAX_ITEMS = 8
MAX_TEXT = 200


def expression(value: Value, limit: int = LIMIT) -> str:
    """`os.system('curl …')`: one line, control characters escaped, at most about `limit` characters."""
    return escape(Writer(limit).write(value, 0), limit)


def reference(ref: Ref) -> str:
    """`module.name` as it stands in the file."""
    return f"{ref.module}.{ref.name}"[:MAX_TEXT] if ref.module else f"<{ref.name}>"


class Writer:
    """Writes until its room is used up: shared values would otherwise be written exponentially often."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, value: Value, depth: int) -> str:
        if depth > MAX_DEPTH or self.room <= 0:
            return CUT
        kind = type(value)
        if kind is Call:
            return self.call(value, depth + 1)
        if kind in (list, tuple, Set, Dict):
            self.room -= 2
            return self.container(value, depth + 1)
        text = atom(value)
        self.room -= len(text)
        return text

    def call(self, call: Call, depth: int) -> str:
        function = self.write(call.function, depth)
        args = self.items(call.args, depth) if type(call.args) is tuple else f"*{self.write(call.args, depth)}"
        if call.kwargs is not None:
            args += f"{', ' if args else ''}**{self.write(call.kwargs, depth)}"
        return f"{function}({args})"

    def container(self, value: Value, depth: int) -> str:
        kind = type(value)
        if kind is list:
            return f"[{self.items(value, depth)}]"
        if kind is tuple:
            return f"({self.items(value, depth)}{',' if len(value) == 1 else ''})"
        if kind is Set:
            return f"{{{self.items(value.items, depth)}}}"
        shown = [f"{self.write(key, depth)}: {self.write(item, depth)}" for key, item in value.pairs[:MAX_ITEMS]]
        return "{" + ", ".join(shown) + (f", {CUT}" if len(value.pairs) > MAX_ITEMS else "") + "}"

    def items(self, values: Sequence[Value], depth: int) -> str:
        shown = ", ".join(self.write(value, depth) for value in values[:MAX_ITEMS])
        return f"{shown}, {CUT}" if len(values) > MAX_ITEMS else shown


def atom(value: Value) -> str:
    """A value that holds no others."""
    match value:
        case str():
            return quote(value)
        case bytes():
            return "b" + quote(value[: MAX_TEXT + 1].decode("latin1"))
        case Ref():
            return reference(value)
        case Rebuilt():
            return f"<tensor {value.dtype} {list(value.shape)}>"
        case Unusable():
            return "<tensor>"
        case Blob():
            return f"<{value.record.size:,} bytes of {'text' if value.text else 'data'}>"
        case DType():
            return f"torch.{value.name}"
        case Module():
            return f"<{value.kind}>"
        case Storage():
            return "<storage>"
        case None | bool() | int() | float():
            return repr(value)
        case _:
            return f"<{type(value).__name__.lower()}>"


def quote(text: str) -> str:
    cut = repr(text[:MAX_TEXT])
    return cut if len(text) <= MAX_TEXT else f"{cut[:-1]}{CUT}{cut[-1]}"
