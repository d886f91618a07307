"""The pickle machine: an opcode loop over inert values, which imports, looks up and calls nothing of the file's."""

from collections.abc import Callable
from dataclasses import dataclass

from ckptool.convert.stream import Stream
from ckptool.convert.values import INERT, Blob, Call, Dict, Ref, Unusable, Value
from ckptool.errors import Malformed, OverBudget

STOP = 0x2E
BATCH = 1 << 14
"""Opcodes between two looks at the budgets."""
COMMON = frozenset(b"\x71\x72\x94\x68\x4b\x4d\x28\x58\x74\x85\x86\x87\x89\x29\x51\x52")
"""Opcodes that `run_common` knows."""
LOOKAHEAD = 16
"""Bytes that no common opcode but a text needs more of."""
from_bytes = int.from_bytes
BOMB = "no checkpoint needs as many: do not trust the file"

Meaning = Callable[..., Value]


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Budgets of one pickle. Text and bytes need none: they are bounded by the file."""

    containers: int = 1_000_000
    stack: int = 1_000_000
    marks: int = 100_000
    memo: int = 2_000_000
    calls: int = 50_000
    references: int = 100_000


@dataclass(slots=True, eq=False)
class Budget:
    """What all pickles of a file may use together: work, and bytes or items that calls copy."""

    opcodes: int = 6_000_000
    copied: int = 1 << 26

    @classmethod
    def of(cls, size: int) -> "Budget":
        """For a file of `size` bytes: protocol 2 writes arrays as texts, which are copied once or twice."""
        return cls(copied=cls().copied + 2 * size)

    def copy(self, args: tuple[Value, ...]) -> bool:
        """Charge for what a call may copy; False when too much was copied already."""
        for value in args:
            kind = type(value)
            if kind in COPIED:
                self.copied -= extent(value)
        return self.copied >= 0


COPIED = frozenset({str, bytes, list, Dict, Blob})
"""What a call may copy, of its arguments."""


def extent(value: Value) -> int:
    """Bytes that a copy of one of COPIED takes."""
    kind = type(value)
    if kind is Blob:
        return int(value.record.size)
    if kind is Dict:
        return 8 * len(value.pairs)
    return 8 * len(value) if kind is list else len(value)


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """The closed set of names that have a meaning. Whole strings, never prefixes.

    `functions` answer a REDUCE, `classes` any way of making an object; both take positional arguments and
    return a value. `constants` stand for themselves (dtypes, storage classes).
    """

    functions: dict[tuple[str, str], Meaning]
    classes: dict[tuple[str, str], Meaning]
    constants: dict[tuple[str, str], Value]
    persistent: Callable[[Value], Value]
    objects: Callable[[str], Meaning | None] = lambda _: None
    """What making an object means for all names of a module: the classes that a TorchScript archive defines."""

    def ref(self, module: str, name: str, offset: int, opcode: str) -> Ref:
        """A name with its meanings, if it has any."""
        pair = (module, name)
        maker = self.classes.get(pair) or self.objects(module)
        return Ref(module, name, offset, opcode, False, maker or self.functions.get(pair), maker)


class Machine:
    """One pickle, from its first opcode to STOP."""

    def __init__(self, stream: Stream, names: Names, limits: Limits, budget: Budget) -> None:
        self.stream = stream
        self.names = names
        self.limits = limits
        self.budget = budget
        self.stack: list[Value] = []
        self.marked: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.containers = 0
        self.calls: list[Call] = []
        self.unusable: list[tuple[int, Unusable]] = []
        """Tensors that cannot be, with the byte offset where each would be made."""
        self.refs: dict[tuple[str, str], Ref] = {}
        self.at = 0

    def run(self, handlers: "list[Callable[[Machine], None] | None]") -> Value:
        """Interpret until STOP and return what is on top. Raises Malformed, Truncated or OverBudget."""
        stream, budget = self.stream, self.budget
        check_at = budget.opcodes
        while budget.opcodes > 0:
            if budget.opcodes <= check_at:
                self.check_budgets()
                check_at = budget.opcodes - BATCH
            if stream.peek() in COMMON and (done := self.run_common(min(BATCH, budget.opcodes))):
                budget.opcodes -= done
                continue
            self.at = stream.tell()
            code = stream.take(1)[0]
            budget.opcodes -= 1
            handler = handlers[code]
            if handler is None:
                if code == STOP:
                    return self.pop()
                raise self.malformed(f"opcode 0x{code:02x} is unknown or never part of a checkpoint")
            handler(self)
        raise self.over("opcodes", Budget().opcodes)

    def run_common(self, most: int) -> int:
        """Interpret the opcodes that make up nearly all of a checkpoint, as far as they go; how many there were.

        It does what their handlers do, without a call for each. What is rare, long or wrong is left to those.
        """
        stream, stack, memo, marked = self.stream, self.stack, self.memo, self.marked
        persistent = self.names.persistent
        data, start = stream.window(LOOKAHEAD)
        base = stream.tell() - start
        at, end = start, min(len(data) - LOOKAHEAD, start + most)  # no opcode is shorter than a byte
        done = 0
        while at < end:
            code = data[at]
            if code == 0x71 and stack:  # BINPUT
                memo[data[at + 1]] = stack[-1]
                at += 2
            elif code == 0x72 and stack:  # LONG_BINPUT
                memo[from_bytes(data[at + 1 : at + 5], "little")] = stack[-1]
                at += 5
            elif code == 0x68 and data[at + 1] in memo:  # BINGET
                stack.append(memo[data[at + 1]])
                at += 2
            elif code == 0x4B:  # BININT1
                stack.append(data[at + 1])
                at += 2
            elif code == 0x28:  # MARK
                marked.append(stack)
                stack = []
                at += 1
            elif code == 0x74 and marked:  # TUPLE
                items = tuple(stack)
                stack = marked.pop()
                stack.append(items)
                self.containers += 1
                at += 1
            elif code == 0x58 and at + 5 + (size := from_bytes(data[at + 1 : at + 5], "little")) < end:  # BINUNICODE
                try:
                    stack.append(data[at + 5 : at + 5 + size].decode())
                except UnicodeDecodeError:
                    break
                at += 5 + size
            elif code == 0x52 and len(stack) > 1:  # REDUCE
                self.at = base + at
                args = stack.pop()
                stack[-1] = self.call(stack[-1], args, "REDUCE")
                at += 1
            elif code == 0x29:  # EMPTY_TUPLE
                stack.append(())
                at += 1
            elif 0x85 <= code <= 0x87 and len(stack) >= (size := code - 0x84):  # TUPLE1, TUPLE2, TUPLE3
                stack[-size:] = (tuple(stack[-size:]),)
                self.containers += 1
                at += 1
            elif code == 0x89:  # NEWFALSE
                stack.append(False)
                at += 1
            elif code == 0x51 and stack:  # BINPERSID
                self.containers += 1
                stack[-1] = persistent(stack[-1])
                at += 1
            elif code == 0x4D:  # BININT2
                stack.append(data[at + 1] | data[at + 2] << 8)
                at += 3
            elif code == 0x94 and stack:  # MEMOIZE
                memo[len(memo)] = stack[-1]
                at += 1
            else:
                break
            done += 1
        self.stack = stack
        stream.seek(at)
        return done

    def check_budgets(self) -> None:
        """Hold what was made against the limits: an opcode makes little, so once every BATCH opcodes is enough."""
        limits = self.limits
        for what, count, limit in (
            ("values on the stack", len(self.stack), limits.stack),
            ("open marks", len(self.marked), limits.marks),
            ("memo entries", len(self.memo), limits.memo),
            ("containers", self.containers, limits.containers),
            ("calls", len(self.calls), limits.calls),
            ("damaged tensors", len(self.unusable), limits.calls),
            ("references", len(self.refs), limits.references),
        ):
            if count > limit:
                raise self.over(what, limit)

    def push(self, value: Value) -> None:
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
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Value]:
        if not self.marked:
            raise self.malformed("there is no mark on the stack")
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.malformed(f"memo entry {index} was never stored")
        self.push(self.memo[index])

    def refer(self, module: Value, name: Value, opcode: str) -> None:
        """Push what a name stands for: a constant of ours, or an inert reference."""
        if type(module) is not str or type(name) is not str:
            # A name that the file computes has no meaning, whatever it would come out as.
            self.push(self.described(Ref("", "computed name", self.at, opcode), (module, name), None, opcode))
            return
        pair = (module, name)
        if pair in self.names.constants:
            self.push(self.names.constants[pair])
            return
        ref = self.refs.get(pair)
        if ref is None:
            ref = self.refs[pair] = self.names.ref(module, name, self.at, opcode)
        self.push(ref)

    def call(self, function: Value, args: Value, opcode: str, kwargs: Value = None, make: bool = False) -> Value:
        """The meaning of a call when the function is of the closed set, else an inert description of it.

        `make`: an object is made of a class, so functions have no meaning here.
        """
        if type(function) is Ref and type(args) is tuple and kwargs is None:
            meaning = function.maker if make else function.meaning
            if meaning is not None:
                self.containers += 1
                if args and not self.budget.copy(args):
                    raise self.over("bytes copied by calls", Budget().copied)
                value = meaning(*args)
                if type(value) is Unusable and value not in args:
                    self.unusable.append((self.at, value))
                if value is not INERT:
                    return value
        return self.described(function, args, kwargs, opcode)

    def described(self, function: Value, args: Value, kwargs: Value, opcode: str) -> Call:
        """A call that stays inert."""
        if type(function) is Ref:
            function.used = True
        call = Call(function, args, kwargs, opcode, self.at)
        self.calls.append(call)
        return call

    def malformed(self, what: str) -> Malformed:
        return Malformed(
            f"{self.stream.record.label}: bad pickle at byte {self.at:,}: {what}",
            "the file is damaged or forged: get another copy",
        )

    def over(self, what: str, limit: int) -> OverBudget:
        return OverBudget(
            f"{self.stream.record.label}: more than {limit:,} {what} in the pickle at byte {self.at:,}", BOMB
        )
