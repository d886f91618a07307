"""What commands tell people about a plan and its result, as lines of text."""

from collections.abc import Iterator

from ckptool.report import Report
from ckptool.tensor import Dropped, Finding, Plan
from ckptool.text import escape, plural, size

SHOWN = 10


def result_lines(plan: Plan, report: Report, verbose: bool) -> Iterator[str]:
    """After writing: what came out, what was left out, what was disarmed."""
    output = report["output"]
    yield f"{escape(report['source'], 1000)} -> {escape(output['path'], 1000)}"
    yield f"  {plural(len(plan.tensors), 'tensor')}, {size(output['bytes'])}, from {plan.format}"
    for file in output.get("files", ()):
        yield f"  {escape(file['path'], 1000)}  {size(file['bytes'])}"
    if output.get("sidecar"):
        yield f"  sidecar: {escape(output['sidecar'], 1000)}"
    yield from dropped_lines(plan.dropped, verbose)
    yield from finding_lines(plan.findings, verbose)


def plan_lines(plan: Plan, report: Report, verbose: bool) -> Iterator[str]:
    """Before writing: the tensors that would be written."""
    yield f"{escape(report['source'], 1000)} -> {escape(report['output']['path'], 1000)} (dry run: nothing is written)"
    yield f"  {plural(len(plan.tensors), 'tensor')}, {size(plan.nbytes)}, from {plan.format}"
    for tensor in plan.tensors if verbose else plan.tensors[:SHOWN]:
        yield f"    {escape(tensor.name)}  {tensor.dtype} {list(tensor.shape)}"
    yield from more(len(plan.tensors), verbose)
    yield from dropped_lines(plan.dropped, verbose)
    yield from finding_lines(plan.findings, verbose)


def dropped_lines(dropped: tuple[Dropped, ...], verbose: bool) -> Iterator[str]:
    if dropped:
        yield f"  left out: {plural(len(dropped), 'value')}"
    for item in dropped if verbose else dropped[:SHOWN]:
        yield f"    {escape(item.name)}: {escape(item.reason, 400)}"
    yield from more(len(dropped), verbose)


def finding_lines(findings: tuple[Finding, ...], verbose: bool) -> Iterator[str]:
    if findings:
        yield f"  found: {plural(len(findings), 'finding')}"
    for item in findings if verbose else findings[:SHOWN]:
        yield f"    {finding_line(item)} -> {item.action}"
    yield from more(len(findings), verbose)


def finding_line(finding: Finding) -> str:
    """Severity, what, and where: one line."""
    what = finding.call or finding.reference
    where = f"{finding.entry + ' ' if finding.entry else ''}byte {finding.offset:,}"
    return f"{finding.severity:7} {what + '  ' if what else ''}[{finding.message}; {where}]"


def more(count: int, verbose: bool) -> Iterator[str]:
    if not verbose and count > SHOWN:
        yield f"    … and {count - SHOWN:,} more (-v shows all)"
