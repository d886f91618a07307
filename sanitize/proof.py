"""Whether what was written still is the model that was read, held against what the steps say that they did."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ckptool.convert.read import read_file
from ckptool.errors import Refused
from ckptool.report import Report
from ckptool.sanitize.job import Job
from ckptool.tensor import Plan
from ckptool.text import plural


class NotProved(Refused):
    """The output is not explained by its source, so there is none."""


def prove(job: Job, original: Plan, target: Path, report: Report, stack: ExitStack) -> Report:
    """The keys `parity` and `verify`. Raises NotProved when the output is another model than was meant."""
    level = job.policy.verify
    if level == "none":
        return {"parity": None, "verify": None}
    from ckptool.verify.expect import expectation_of
    from ckptool.verify.explain import explain
    from ckptool.verify.outcome import report_of

    candidate = read_file(target, stack)
    stated = replace(expectation_of(report, job.shown), threshold=job.policy.threshold)
    explanation = explain(original, candidate, stated)
    results = {}
    if level == "denoise" and (explanation.compared or explanation.rank):
        from ckptool.verify.denoise import Settings, denoise

        results = denoise(replace(original, tensors=explanation.meant), candidate, Settings())
    paths, plans = (job.shown, job.told(target)), (original, candidate)
    found = report_of(paths, plans, explanation, results, {"max_error": None})
    if not found["parity"]:
        raise NotProved(why(found), "please report it; --verify none writes it unproved")
    kept = ("tensors", "denoise", "overflow", "problems")
    return {"parity": True, "verify": {"level": level} | {key: found[key] for key in kept}}


def why(found: Report) -> str:
    unexplained = found["tensors"]["unexplained"]
    if unexplained:
        first = unexplained[0]
        return (
            f"parity is not shown: {plural(len(unexplained), 'tensor')} unexplained ({first['name']}: {first['why']})"
        )
    far = [name for name, item in found["denoise"].items() if not item["within"]]
    return f"parity is not shown: the denoise step of {', '.join(far)} differs by more than rounding"
