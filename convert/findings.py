"""What the pickles of a file refer to and would call, as graded findings."""

from collections.abc import Iterator

from ckptool.convert.contents import Contents
from ckptool.convert.examine import Pickle
from ckptool.convert.grades import Grade, grade
from ckptool.convert.render import expression, reference
from ckptool.convert.values import Call, Ref, Value
from ckptool.convert.walk import unseen
from ckptool.tensor import Finding
from ckptool.text import escape, plural

SEVERITY = {"harmless": "note", "unknown": "warning", "dangerous": "error"}
RANK = {"harmless": 0, "unknown": 1, "dangerous": 2}
OWN_CALLS = {"computed name": "builds a call", "BUILD on a class": "changes objects"}
"""What the machine itself describes as a call."""
MAX_FINDINGS = 1000
"""For each file; what is beyond is counted."""


def findings_of(contents: Contents, action: str) -> list[Finding]:
    """All findings of a file, worst first; `action` is what becomes of the calls."""
    found = list(contents.findings)
    for pickle in contents.pickles:
        found += pickle_findings(pickle, action)
    found.sort(key=lambda f: ("error", "warning", "note").index(f.severity))
    if len(found) > MAX_FINDINGS:
        rest = found[MAX_FINDINGS - 1 :]
        found[MAX_FINDINGS - 1 :] = [
            Finding("more-findings", rest[0].severity, f"{plural(len(rest), 'more finding')} like these")
        ]
    return found


def pickle_findings(pickle: Pickle, action: str) -> Iterator[Finding]:
    """Calls in their order, then names that nothing was called with; repeated harmless ones count once."""
    told: set[str] = set()
    for number, call in enumerate(pickle.calls):
        level, effect = grade_call(call)
        name = function_name(call.function)
        if level == "harmless" and name in told:
            continue
        told.add(name)
        yield Finding(
            f"{level}-call",
            SEVERITY[level],
            message(level, effect, "would be called"),
            pickle.entry,
            pickle.index,
            call.offset,
            call.opcode,
            name,
            expression(call) if number < MAX_FINDINGS else "",
            action,
        )
    for offset, tensor in pickle.unusable[:MAX_FINDINGS]:
        severity = "warning" if tensor.damaged else "note"
        text = f"a tensor that cannot be converted: {tensor.reason}"
        yield Finding(
            "unusable-tensor", severity, text, pickle.entry, pickle.index, offset, "REDUCE", action="reported"
        )
    for ref in pickle.refs:
        if not ref.used:
            yield from named_only(pickle, ref, action)


def named_only(pickle: Pickle, ref: Ref, action: str) -> Iterator[Finding]:
    found = grade(ref.module, ref.name)
    text = message(found.level, found.effect, "is named, not called")
    name = escape(reference(ref))
    yield Finding(
        f"{found.level}-name",
        SEVERITY[found.level],
        text,
        pickle.entry,
        pickle.index,
        ref.offset,
        ref.opcode,
        name,
        "",
        action,
    )


def message(level: str, effect: str, what: str) -> str:
    if level == "harmless":
        return f"training object ({effect})"
    return f"{what}: {effect}" if effect else f"{what}: what it does is not known"


def grade_call(call: Call) -> tuple[str, str]:
    """The grade of what is called; where that is no name, or calls what it is given, the worst of the names in it."""
    function = call.function
    if type(function) is Ref and not function.module:
        return "dangerous", OWN_CALLS[function.name]
    if type(function) is Ref:
        found = grade(function.module, function.name)
        if found.level != "harmless":
            return found.level, found.effect
        # `copyreg._reconstructor` and its like call the class that they are handed.
        inner = [call.args]
    else:
        found = Grade("unknown", "")
        inner = [function, call.args]
    refs = (value for value in unseen(inner, set()) if type(value) is Ref and value.module)
    worst = max((found, *(grade(ref.module, ref.name) for ref in refs)), key=lambda g: RANK[g.level])
    return worst.level, worst.effect


def function_name(function: Value) -> str:
    return escape(reference(function)) if type(function) is Ref else expression(function, 120)


def verdict(findings: list[Finding]) -> str:
    """clean, harmless, unknown or dangerous: the worst of the findings."""
    severities = {finding.severity for finding in findings if finding.rule not in ("no-checksums",)}
    for severity, name in (("error", "dangerous"), ("warning", "unknown"), ("note", "harmless")):
        if severity in severities:
            return name
    return "clean"
