"""What becomes of one file: read, judged, pruned, cast, written, proved, and its receipt last."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ckptool.convert.findings import verdict
from ckptool.convert.folders import is_index
from ckptool.convert.read import read
from ckptool.convert.scan import counts, scan_file
from ckptool.convert.sidecar import carry, find_sidecar
from ckptool.convert.writer import check_sources, write
from ckptool.errors import CkptoolError, Refused, UsageError
from ckptool.hashes import sha256_of
from ckptool.identify.inspection import sidecar_of
from ckptool.quantize.kernels import Overflowed
from ckptool.report import Report, finding_data, plan_data
from ckptool.sanitize.job import Job
from ckptool.sanitize.policy import QUARANTINE, REFUSE
from ckptool.sanitize.process.limits import source_size
from ckptool.sanitize.proof import prove
from ckptool.sanitize.receipts.receipt import inputs_of, receipt_data, standing, write_receipt
from ckptool.sanitize.receipts.shape import PASSED_OVER
from ckptool.sanitize.refusal import refused_report
from ckptool.sanitize.steps import NotAllowed, Steps, counted, identified
from ckptool.tensor import Finding, Plan
from ckptool.text import escape, size


def sanitize(job: Job) -> Report:
    """The report of one file. What it is never decides whether there is one; MemoryError and bugs escape."""
    try:
        done = standing(job, by_hash=True)
        if done is not None:
            return skipped(job, done)
        return attempted(job)
    except CkptoolError as error:
        return refused(job, error)
    except OSError as error:
        return refused(job, Refused(f"{label(job)}: {error.strerror or error}", "check the disk and its permissions"))


def label(job: Job) -> str:
    return escape(str(job.path), 1000)


def skipped(job: Job, receipt: Report) -> Report:
    """What is told of a file that is done already: its receipt."""
    output = receipt["output"]
    folder = (job.quarantined if receipt["action"] == "quarantined" else job.released).parent
    return {
        **{key: value for key, value in receipt.items() if key not in ("receipt", "policy", "tool", "parts", "input")},
        **{key: value for key, value in receipt["changed"].items() if key != "cast"},
        "source": job.shown,
        "path": job.shown,
        "output": {"path": job.told(folder / output["name"]), "sha256": output["sha256"], "bytes": output["bytes"]},
        "source_bytes": sum(item["bytes"] for item in (receipt["input"], *receipt["parts"])),
        "action": "skipped",
        "was": receipt["action"],
    }


def attempted(job: Job) -> Report:
    """One pass where all values fit into the narrower format; where some do not, a second one that looks first."""
    check_size(job)
    for careful in (False, True):
        try:
            return once(job, careful)
        except Overflowed:
            continue
    raise Refused(f"{label(job)}: its values changed while they were read", "run it again")


def check_size(job: Job) -> None:
    """Raises NotAllowed for a file that the policy has no room for."""
    most = job.policy.max_size
    found = source_size(job) if job.path.is_file() else 0
    if most is not None and found > most:
        raise too_large(found, most)


def too_large(found: int, most: int) -> NotAllowed:
    return NotAllowed(f"is {size(found)}, and the policy allows {size(most)}", "--max-size allows more")


def once(job: Job, careful: bool) -> Report:
    with ExitStack() as stack:
        plan = read(job.path, stack)
        inputs = inputs_of(job.path, plan)
        total = sum(item["bytes"] for item in inputs)
        if job.policy.max_size is not None and total > job.policy.max_size:
            raise too_large(total, job.policy.max_size)
        plan = replace(plan, findings=counted(plan.findings, job.policy.harmless))
        word = verdict(list(plan.findings))
        if job.policy.reaction(word) == REFUSE:
            raise NotAllowed(f"is {word}, which the policy refuses", f"--{word} disarm would take the calls out")
        quarantined = job.policy.reaction(word) == QUARANTINE
        target = job.quarantined if quarantined else job.released
        target.parent.mkdir(parents=True, exist_ok=True)
        steps = Steps(job.policy, label(job), target.parent, careful)
        new = steps(plan)
        report = identified(new, sidecar_of(job.path), job.policy)
        report |= {"source_bytes": total, "verdict": word, "action": "quarantined" if quarantined else "released"}
        job.clear()
        output, new = written(job, new, target)
        # What a step says of itself stands over what is said of every plan.
        report = plan_data(job.shown, new, output) | steps.data(new) | report | {"path": job.shown}
        report |= prove(job, plan, target, report, stack)
        check_sources(plan)
    output["sha256"] = sha256_of(target)
    report["receipt"] = job.told(write_receipt(target, receipt_data(job, report, inputs)))
    output.pop("sidecar_file", None)
    return report


def written(job: Job, plan: Plan, target: Path) -> tuple[Report, Plan]:
    """Write the output and what lies beside it: its description, and the plan as it was written."""
    sidecar, goal, left_out = find_sidecar(job.path, target, True)
    if left_out is not None:
        plan = replace(plan, dropped=(*plan.dropped, left_out))
    plan = appearing(lambda force: write(plan, target, force))
    output: Report = {"path": job.told(target), "sha256": None, "bytes": target.stat().st_size}
    if sidecar is not None:
        carry(sidecar, goal, True)
    if sidecar is not None or goal.is_file():
        output["sidecar"] = job.told(goal)
        output["sidecar_file"] = {"name": goal.name, "sha256": sha256_of(goal), "bytes": goal.stat().st_size}
    return output, plan


def appearing(make: Callable[[bool], Plan]) -> Plan:
    """A file that is not there yet gets its name in one step, with no other name on the way that a kill could leave.

    It may be there all the same: made just now by the process of a run that was killed a moment ago.
    """
    try:
        return make(False)
    except UsageError:
        return make(True)


def refused(job: Job, error: CkptoolError) -> Report:
    """The report of a file without an output; what earlier runs made of it goes too, since it no longer holds."""
    job.clear()
    message = error.message.replace(label(job), escape(job.shown, 1000))
    report = refused_report(job, Refused(message, error.hint))
    if is_index(job.path) or not job.path.is_file():
        return report
    found = scan_file(job.path)
    if not job.listed and not counts(job.path, found):
        return report | {"action": PASSED_OVER}
    findings = [finding_of(item) for item in counted(found.findings, job.policy.harmless)]
    return report | {"format": found.format, "verdict": found.verdict, "findings": findings}


def finding_of(finding: Finding) -> Report:
    return finding_data(replace(finding, action="refused"))
