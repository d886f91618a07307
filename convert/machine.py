"""The pickle machine: an opcode loop over inert values. It imports nothing, looks nothing up, calls nothing of the file's."""

from collections.abc import Callable
from dataclasses import dataclass

from ckptool.convert.stream import Stream
from ckptool.convert.values import Call, Ref, Value
from ckptool.errors import Malformed, OverBudget

BOMB = "no checkpoint needs as many: do not trust the file"

Meaning = Callable[..., Value]


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets of one pickle, each checked before the work it bounds."""

    opcodes: int = 20_000_000
    containers: int = 3_000_000
    stack: int = 2_000_000
    marks: int = 100_000
    memo: int = 10_000_000
    calls: int = 200_000
    references: int = 100_000


@dataclass(frozen=True, slots=True)
class Names:
    """The closed set of names that have a meaning. Whole strings, never prefixes.

    `functions` answer a REDUCE, `classes` any way of making an object; both take positional arguments and
    return a value. `constants` stand for themselves (dtypes, storage classes).
    """

    functions: dict[tuple[str, str], Meaning]
    classes: dict[tuple[str, str], Meaning]
    constants: dict[tuple[str, str], Value]
    persistent: Callable[[Value], Value]


class Machine:
    """One pickle, from its first opcode to STOP."""

    def __init__(self, stream: Stream, names: Names, limits: Limits) -> None:
        self.stream = stream
        self.names = names
        self.limits = limits
        self.stack: list[Value] = []
        self.marked: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.containers = 0
        self.calls: list[Call] = []
        self.refs: dict[tuple[str, str], Ref] = {}
        self.at = 0

    def run(self, handlers: "list[Callable[[Machine], None] | None]") -> Value:
        """Interpret until STOP and return what is on top. Raises Malformed, Truncated or OverBudget."""
        stream = self.stream
        for _ in range(self.limits.opcodes):
            self.at = stream.tell()
            code = stream.take(1)[0]
            handler = handlers[code]
            if handler is None:
                if code == 0x2E:  # STOP
                    return self.pop()
                raise self.malformed(f"opcode 0x{code:02x} is unknown or never part of a checkpoint")
            handler(self)
        raise self.over("opcodes", self.limits.opcodes)

    def push(self, value: Value) -> None:
        if len(self.stack) >= self.limits.stack:
            raise self.over("values on the stack", self.limits.stack)
        self.stack.append(value)

    def pop(self) -> Value:
        if not self.stack:
            raise self.malformed("the stack is empty")
        return self.stack.pop()

    def top(self) -> Value:
        if not self.stack:
            raise self.malformed("the stack is empty")
        return self.stack[-1]

    def mark(self) -> None:
        if len(self.marked) >= self.limits.marks:
            raise self.over("open marks", self.limits.marks)
        self.count_container()
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Value]:
        if not self.marked:
            raise self.malformed("there is no mark on the stack")
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def count_container(self) -> None:
        self.containers += 1
        if self.containers > self.limits.containers:
            raise self.over("containers", self.limits.containers)

    def put(self, index: int) -> None:
        if len(self.memo) >= self.limits.memo:
            raise self.over("memo entries", self.limits.memo)
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.malformed(f"memo entry {index} was never stored")
        self.push(self.memo[index])

    def refer(self, module: Value, name: Value, opcode: str) -> None:
        """Push what a name stands for: a constant of ours, or an inert reference."""
        if type(module) is not str or type(name) is not str:
            # A name that the file computes has no meaning, whatever it would come out as.
            self.record(Call(Ref("", "computed name", self.at, False, opcode, True), (module, name), None, opcode, self.at))
            return
        pair = (module, name)
        if pair in self.names.constants:
            self.push(self.names.constants[pair])
            return
        ref = self.refs.get(pair)
        if ref is None:
            if len(self.refs) >= self.limits.references:
                raise self.over("references", self.limits.references)
            known = pair in self.names.functions or pair in self.names.classes
            ref = self.refs[pair] = Ref(module, name, self.at, known, opcode)
        self.push(ref)

    def call(self, function: Value, args: Value, opcode: str, kwargs: Value = None, make: bool = False) -> None:
        """Push the meaning of a call when the function is of the closed set, else an inert description of it.

        `make`: an object is made of a class, so functions have no meaning here.
        """
        if type(function) is Ref and function.known and type(args) is tuple and kwargs is None:
            pair = (function.module, function.name)
            meaning = self.names.classes.get(pair) or (None if make else self.names.functions.get(pair))
            if meaning is not None:
                self.count_container()
                self.push(meaning(*args))
                return
        self.record(Call(function, args, kwargs, opcode, self.at))

    def record(self, call: Call) -> None:
        if len(self.calls) >= self.limits.calls:
            raise self.over("calls", self.limits.calls)
        if type(call.function) is Ref:
            call.function.used = True
        self.calls.append(call)
        self.push(call)

    def malformed(self, what: str) -> Malformed:
        return Malformed(
            f"{self.stream.record.label}: bad pickle at byte {self.at:,}: {what}", "the file is damaged or forged: get another copy"
        )

    def over(self, what: str, limit: int) -> OverBudget:
        return OverBudget(f"{self.stream.record.label}: more than {limit:,} {what} in the pickle at byte {self.at:,}", BOMB)
