"""Everything that can be said of a source without reading its tensors: the report of `ckptool inspect`."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from ckptool.address import Source
from ckptool.convert.findings import verdict
from ckptool.convert.folders import MAX_INDEX
from ckptool.convert.read import read
from ckptool.convert.remote import Where, is_folder, is_listed, located, open_at
from ckptool.convert.sidecar import MAX_SIZE, is_file_there
from ckptool.errors import CkptoolError
from ckptool.identify.advice import compatible_with, missing, native_size, size_advice
from ckptool.identify.contents import components_data, components_of, position_problems, precision_of, savings_of
from ckptool.identify.ema_report import ema_data
from ckptool.identify.folders import folders_of, refusals_of
from ckptool.identify.identify import Folder, identify
from ckptool.identify.identity import Identity
from ckptool.identify.quantised import quantised
from ckptool.report import SCHEMA_VERSION, Report, dropped_data, finding_data
from ckptool.source import Distant, File, Record
from ckptool.tensor import Finding, Plan

DANGEROUS = "its pickles {}: {}; ckptool scan says where, ckptool convert disarms them"


Progress = Callable[[int, str], AbstractContextManager[Callable[[int], object]]]
"""Of so many bytes, under this name."""


def inspect(source: Source, hashing: Progress | None = None, listing: bool = False) -> Report:
    """The report of one source, with its hashes where `hashing` shows how far they are, and its tensors if `listing`.

    Raises UsageError when there is nothing at `source`, Refused when it cannot be read.
    """
    with ExitStack() as stack:
        path = located(source)
        plan = read(path, stack)
        sidecar = sidecar_of(path)
        identity = identify(plan, sidecar, folder_of(path) if is_folder(path) else None)
        report = report_of(str(source), plan, identity)
        if listing:
            report["tensors"] = [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in plan.tensors]
        if hashing is not None:
            report["hashes"] = hashes_data(
                [r.source for r in plan.sources if isinstance(r.source, File | Distant)], hashing
            )
        return report


def hashes_data(files: list[File | Distant], hashing: Progress) -> Report:
    """The hashes of a file, or of each file of a source in several."""
    from ckptool.identify.hashes import hashes_of

    with hashing(sum(file.size for file in files), "hashes") as advance:
        found = {file.label: hashes_of(file, advance) for file in files}
    return dict(next(iter(found.values()))) if len(found) == 1 else {"files": found}


def refusal_data(path: str, error: CkptoolError) -> Report:
    """What stands in the place of a source that was refused."""
    return {
        "schema_version": SCHEMA_VERSION,
        "path": path,
        "format": None,
        "kind": None,
        "error": {"message": error.message, "hint": error.hint},
    }


def report_of(path: str, plan: Plan, identity: Identity) -> Report:
    """What is known of a plan and its identity, in the stable form."""
    components = components_of(plan, identity.kind)
    ema, ema_problems = ema_data(plan)
    size = native_size(identity)
    problems = [
        *identity.problems,
        *missing(plan, identity, frozenset(components)),
        *ema_problems,
        *position_problems(plan.tensors),
        *pickle_problems(plan),
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "path": path,
        "format": plan.format,
        **identity_data(identity),
        "components": components_data(components),
        "ema": ema,
        "native_size": size,
        "size_advice": size_advice(identity, size),
        "compatible_with": compatible_with(identity),
        "folders": folders_of(identity.kind, identity.base, (tensor.name for tensor in plan.tensors)),
        "not_for": {ui: f"{no.reason}: {no.hint}" for ui, no in refusals_of(identity.kind, identity.base).items()},
        "precision": precision_of(components),
        "savings": savings_of(components, left_out(plan), quantised(plan) is None),
        "metadata": plan.metadata,
        "hashes": {},
        "verdict": verdict(list(plan.findings)),
        "evidence": list(identity.evidence),
        "problems": problems,
        "findings": [finding_data(finding) | {"action": "reported"} for finding in plan.findings],
        "left_out": [dropped_data(item) for item in plan.dropped],
    }


def with_problems(report: Report) -> Report:
    """A report whose problems stand among its findings, for services that know nothing but findings."""
    problems = [finding_data(Finding("problem", "warning", problem)) for problem in report.get("problems", ())]
    return report | {"findings": [*report.get("findings", ()), *problems]}


def identity_data(identity: Identity) -> Report:
    return {
        "kind": identity.kind,
        "algorithm": identity.algorithm,
        "base": identity.base,
        "candidates": list(identity.candidates),
        "variant": identity.variant,
        "prediction": {"type": identity.prediction.type, "evidence": identity.prediction.evidence},
    }


def left_out(plan: Plan) -> int:
    """Bytes of a pickle with training state that are no tensor of the model: what the training state takes, about."""
    if not any(item.reason.startswith("training state") for item in plan.dropped):
        return 0
    return max(sum(record.source.size for record in plan.sources) - plan.nbytes, 0)


def pickle_problems(plan: Plan) -> list[str]:
    """What its pickles would do, if they would do anything; the findings name it."""
    for severity, does in (("error", "would run something dangerous"), ("warning", "name something unknown")):
        found = next((finding for finding in plan.findings if finding.severity == severity), None)
        if found is not None:
            return [DANGEROUS.format(does, found.call or found.reference or found.message)]
    return []


def sidecar_of(path: Where) -> bytes | None:
    """The `<stem>.yaml` beside a file, None when there is none that is small and readable."""
    if not path.is_file() or path.suffix == ".yaml":
        return None
    return small_file(path.with_suffix(".yaml"), MAX_SIZE)


def small_file(path: Where, most: int) -> bytes | None:
    if not is_listed(path) or not is_file_there(path):
        return None
    try:
        with open_at(path) as file:
            return Record.whole(file).read(0, file.size) if file.size <= most else None
    except (CkptoolError, OSError):
        return None


def folder_of(path: Where) -> Folder:
    """What the settings of a diffusers folder say: texts of a known place, and nothing else of them."""
    pipeline = settings(path / "model_index.json").get("_class_name")
    scheduler = settings(path / "scheduler" / "scheduler_config.json").get("prediction_type")
    return Folder(
        pipeline if isinstance(pipeline, str) else None,
        scheduler if isinstance(scheduler, str) else None,
    )


def settings(path: Where) -> dict[str, Any]:
    """A small JSON object, empty when it is none."""
    import json

    data = small_file(path, MAX_INDEX >> 6)
    try:
        found = json.loads(data) if data is not None else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
