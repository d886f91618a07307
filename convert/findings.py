"""What the pickles of a file refer to and would call, as graded findings."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from ckptool.convert.contents import Contents
from ckptool.convert.examine import Pickle
from ckptool.convert.grades import Grade, grade
from ckptool.convert.render import expression, reference
from ckptool.convert.values import Call, Ref, Value
from ckptool.convert.walk import parts
from ckptool.tensor import Finding
from ckptool.text import escape, plural

SEVERITY = {"harmless": "note", "unknown": "warning", "dangerous": "error"}
RANK = {"harmless": 0, "unknown": 1, "dangerous": 2}
OWN_CALLS = {"computed name": "builds a call", "BUILD on a class": "changes objects"}
"""What the machine itself describes as a call."""
MAX_PARTS = 8
MAX_FINDINGS = 1000
"""For each file; what is beyond is counted."""


@dataclass(slots=True, eq=False)
class Graded:
    """A call or a name with its grade, before it is written out: there may be very many, and few are shown."""

    pickle: Pickle
    subject: Call | Ref
    level: str
    effect: str


def findings_of(contents: Contents, action: str) -> list[Finding]:
    """All findings of a file, worst first; `action` is what becomes of the calls."""
    graded = [item for pickle in contents.pickles for item in grade_pickle(pickle)]
    graded.sort(key=lambda item: -RANK[item.level])
    found = list(contents.findings)
    for pickle in contents.pickles:
        found += unusable_findings(pickle)
    found += [write(item, action) for item in graded[:MAX_FINDINGS]]
    found.sort(key=lambda item: ("error", "warning", "note").index(item.severity))
    left = graded[MAX_FINDINGS:]
    if left:
        severity = SEVERITY[left[0].level]
        found.append(Finding("more-findings", severity, f"{plural(len(left), 'more finding')} like these"))
    return found


def grade_pickle(pickle: Pickle) -> Iterator[Graded]:
    """Calls in their order, then names that nothing was called with; repeated harmless ones count once."""
    told: set[int] = set()
    for call in pickle.calls:
        level, effect = grade_call(call)
        if level == "harmless" and id(call.function) in told:
            continue
        told.add(id(call.function))
        yield Graded(pickle, call, level, effect)
    for ref in pickle.refs:
        if not ref.used:
            found = grade(ref.module, ref.name)
            yield Graded(pickle, ref, found.level, found.effect)


def write(item: Graded, action: str) -> Finding:
    """A graded call or name as people read it."""
    subject, level = item.subject, item.level
    called = isinstance(subject, Call)
    return Finding(
        f"{level}-call" if called else f"{level}-name",
        SEVERITY[level],
        message(level, item.effect, "would be called" if called else "is named, not called"),
        escape(item.pickle.entry),
        item.pickle.index,
        subject.offset,
        subject.opcode,
        function_name(subject.function) if isinstance(subject, Call) else escape(reference(subject)),
        expression(subject) if called else "",
        action,
    )


def unusable_findings(pickle: Pickle) -> Iterator[Finding]:
    """Tensors that cannot be: what is forged is a warning, what safetensors merely cannot hold a note."""
    for offset, tensor in pickle.unusable[:MAX_FINDINGS]:
        severity = "warning" if tensor.damaged else "note"
        text = f"a tensor that cannot be converted: {tensor.reason}"
        yield Finding("unusable-tensor", severity, text, escape(pickle.entry), pickle.index, offset, "REDUCE")


def message(level: str, effect: str, what: str) -> str:
    if level == "harmless":
        return f"training object ({effect})"
    return f"{what}: {effect}" if effect else f"{what}: what it does is not known"


def grade_call(call: Call) -> tuple[str, str]:
    """The grade of what is called; where that is no name, or calls what it is given, the worst of the names in it."""
    function = call.function
    if type(function) is Ref and not function.module:
        return "dangerous", OWN_CALLS.get(function.name, "builds a call")
    if type(function) is Ref:
        found = grade(function.module, function.name)
        if found.level != "harmless":
            return found.level, found.effect
        # `copyreg._reconstructor` and its like call the class that they are handed.
        inner = [call.args]
    else:
        found = Grade("unknown", "")
        inner = [function, call.args]
    refs = (value for value in some_parts(inner) if type(value) is Ref and value.module)
    worst = max((found, *(grade(ref.module, ref.name) for ref in refs)), key=lambda g: RANK[g.level])
    return worst.level, worst.effect


def some_parts(values: list[Value]) -> Iterator[Value]:
    """The first few values inside others: each call in them is graded by itself as well."""
    todo = list(values)
    for _ in range(MAX_PARTS):
        if not todo:
            return
        value = todo.pop()
        yield value
        todo.extend(islice(parts(value), MAX_PARTS))


def function_name(function: Value) -> str:
    return escape(reference(function)) if type(function) is Ref else expression(function, 120)


def verdict(findings: list[Finding]) -> str:
    """clean, harmless, unknown or dangerous: the worst of the findings."""
    severities = {finding.severity for finding in findings if finding.rule not in ("no-checksums",)}
    for severity, name in (("error", "dangerous"), ("warning", "unknown"), ("note", "harmless")):
        if severity in severities:
            return name
    return "clean"
