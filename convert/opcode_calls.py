"""What the opcodes that name and call do to the machine: they describe it. Semantics: CPython's Lib/pickletools.py."""

from ckptool.convert.machine import Machine
from ckptool.convert.render import atom
from ckptool.convert.values import Call, Ref, Value

NAME_LIMIT = 4096


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
    m.push(m.call(m.pop(), args, "INST", make=True))


def op_obj(m: Machine) -> None:
    items = m.pop_mark()
    if not items:
        raise m.malformed("an object without a class")
    m.push(m.call(items[0], tuple(items[1:]), "OBJ", make=True))


def op_reduce(m: Machine) -> None:
    args = m.pop()
    m.push(m.call(m.pop(), args, "REDUCE"))


def op_newobj(m: Machine) -> None:
    args = m.pop()
    new(m, m.pop(), args, None, "NEWOBJ")


def op_newobj_ex(m: Machine) -> None:
    kwargs = m.pop()
    args = m.pop()
    new(m, m.pop(), args, kwargs, "NEWOBJ_EX")


def new(m: Machine, function: Value, args: Value, kwargs: Value, opcode: str) -> None:
    """`cls.__new__(cls, *args)`, which for dicts and sets ignores what `cls(*args)` takes: no writer gives any."""
    known = args == () and kwargs is None
    m.push(m.call(function, args, opcode, make=True) if known else m.described(function, args, kwargs, opcode))


def op_build(m: Machine) -> None:
    """Give state to what the machine made; on anything else it is a call of the file's, so it stays inert."""
    state = m.pop()
    target = m.top()
    if type(target) is Call:
        target.states.append(state)
    elif isinstance(target, Ref):
        m.pop()
        m.push(m.described(Ref("", "BUILD on a class", m.at, "BUILD"), (target, state), None, "BUILD"))
    elif hasattr(type(target), "build"):
        target.build(state)
    else:
        raise m.malformed(f"state is given to {atom(target)}")


def op_persid(m: Machine) -> None:
    m.containers += 1
    m.push(m.names.persistent(name_line(m)))


def op_binpersid(m: Machine) -> None:
    m.containers += 1
    m.push(m.names.persistent(m.pop()))
