"""The receipt of an output: what it was made from, by what, and what was found and changed; written last."""

import json
import os
from collections import Counter
from pathlib import Path

from ckptool import __version__
from ckptool.convert.remote import Place, Stated, Where, is_listed, open_at
from ckptool.convert.sidecar import MAX_SIZE, is_file_there
from ckptool.errors import CkptoolError, UsageError
from ckptool.hashes import sha256_of, sha256_of_file
from ckptool.output import Output, write_at
from ckptool.report import SCHEMA_VERSION, Report
from ckptool.sanitize.job import Job
from ckptool.sanitize.names import receipt_of
from ckptool.sanitize.receipts.receipt_file import read_receipt
from ckptool.source import Distant, File
from ckptool.tensor import Plan
from ckptool.text import escape

FIGURES = ("max_abs", "relative_l2", "psnr", "cosine")
IDENTITY = ("kind", "algorithm", "base", "candidates", "variant", "prediction")


def inputs_of(path: Where, plan: Plan) -> list[Report]:
    """Every file that was opened, by its name from the source's folder; the source itself stands first."""
    files = {r.source.label: r.source for r in plan.sources if isinstance(r.source, File | Distant)}
    own = escape(str(path), 1000)
    ordered = sorted(files.values(), key=lambda file: (file.label != own, file.label))
    return [input_of(file, path, path.name if file.label == own else Path(file.label).name) for file in ordered]


def input_of(file: File | Distant, path: Where, name: str) -> Report:
    """One file. Of one on another machine, what is said of it there: not all of it is read."""
    if isinstance(file, File):
        modified = os.fstat(file.fileno()).st_mtime_ns
        return {"name": name, "sha256": sha256_of_file(file), "bytes": file.size, "mtime_ns": modified}
    assert isinstance(path, Place)
    stated = path.store.stated((path.parent / name).path)
    return {"name": name, "sha256": stated.sha256, "bytes": file.size, "version": stated.version}


def sidecar_hash(path: Where) -> str | None:
    """Of the settings beside a source, since they are carried along."""
    if path.suffix == ".yaml" or not is_listed(path):
        return None
    beside = path.with_suffix(".yaml")
    if not is_file_there(beside):
        return None
    with open_at(beside) as file:
        return sha256_of_file(file) if file.size <= MAX_SIZE else None


def where_from(job: Job) -> Report:
    """Of a source on another machine: its address, and the commit that it was read at."""
    return {"address": job.shown, "commit": job.commit} if isinstance(job.path, Place) else {}


def receipt_data(job: Job, report: Report, inputs: list[Report]) -> Report:
    """The same input, policy and version give the same receipt, to the byte but for the times of the files."""
    output = report["output"]
    return {
        "schema_version": SCHEMA_VERSION,
        "receipt": 1,
        "tool": {"name": "ckptool", "version": __version__},
        "policy": {"sha256": job.policy.sha256, "settings": job.policy.data},
        "source": job.relative,
        **where_from(job),
        "input": inputs[0],
        "parts": inputs[1:],
        "sidecar_sha256": sidecar_hash(job.path),
        "output": {
            "name": Path(output["path"]).name,
            "sha256": output["sha256"],
            "bytes": output["bytes"],
            "sidecar": output.get("sidecar_file"),
        },
        "action": report["action"],
        "verdict": report["verdict"],
        "format": report["format"],
        **{name: report[name] for name in IDENTITY},
        "findings": report["findings"],
        "changed": changed(report),
        "parity": report["parity"],
        "verify": proof(report["verify"]),
    }


def changed(report: Report) -> Report:
    """What is not as it was: names where something went, counts where a value was rounded."""
    casts = Counter((item["from"], item["to"]) for item in report["cast"])
    return {
        "kept": report["kept"],
        "dropped": report["dropped"],
        "removed": report["removed"],
        "renamed": report["renamed"],
        "cast": [{"from": before, "to": after, "tensors": n} for (before, after), n in sorted(casts.items())],
        "zeroed": report["zeroed"],
        "repaired": report["repaired"],
        "notes": report["notes"],
    }


def proof(verify: Report | None) -> Report | None:
    """What verify said, in counts and figures."""
    if verify is None:
        return None
    tensors = verify["tensors"]
    counts = {name: len(tensors[name]) for name in ("cast", "ema", "renamed", "dropped", "unexplained")}
    denoise = {name: {key: item[key] for key in FIGURES} for name, item in verify["denoise"].items()}
    return {"level": verify["level"], "identical": tensors["identical"], **counts, "denoise": denoise}


def write_receipt(output: Path, receipt: Report) -> Path:
    """In one step, when all else is done."""
    path = receipt_of(output)
    data = (json.dumps(receipt, indent=2) + "\n").encode()
    for force in (False, True):  # under no other name on the way, unless it is there all the same
        try:
            with Output(path, len(data), force) as file:
                write_at(file.fd, data, 0)
            break
        except UsageError:
            if force:
                raise
    return path


def standing(job: Job, by_hash: bool) -> Report | None:
    """The receipt that makes another run needless, if there is one: same input, policy and tool, and output there.

    By size and time at first, in the process that hands out jobs; by the hash of the bytes in the one that reads.
    """
    if job.force:
        return None
    for output in (job.released, job.quarantined):
        try:
            receipt = read_receipt(receipt_of(output))
            if is_for(receipt, job) and is_there(receipt, output) and is_input(receipt, job.path, by_hash):
                return receipt
        except (CkptoolError, OSError, ValueError):
            continue
    return None


def is_for(receipt: Report, job: Job) -> bool:
    same = receipt["policy"].get("sha256") == job.policy.sha256 and receipt["source"] == job.relative
    return bool(same and receipt["tool"].get("version") == __version__)


def is_there(receipt: Report, output: Path) -> bool:
    sidecar = receipt["output"]["sidecar"]
    if sidecar is not None and output.with_name(sidecar["name"]).stat().st_size != sidecar["bytes"]:
        return False
    return bool(output.stat().st_size == receipt["output"]["bytes"])


def is_input(receipt: Report, path: Where, by_hash: bool) -> bool:
    """Whether the source still is what the receipt says that it was."""
    if receipt.get("sidecar_sha256") != sidecar_hash(path):
        return False
    for file in (receipt["input"], *receipt["parts"]):
        name = path.name if file is receipt["input"] else file["name"]
        if not isinstance(path, Path):
            if not is_version(file, path.store.stated((path.parent / name).path)):
                return False
            continue
        part = path.with_name(name)
        status = part.stat()
        if status.st_size != file["bytes"]:
            return False
        if not by_hash and status.st_mtime_ns != file.get("mtime_ns"):
            return False
        if by_hash and sha256_of(part) != file["sha256"]:
            return False
    return True


def is_version(file: Report, stated: Stated) -> bool:
    """Whether another machine still has the file that it had; where it tells no version, nobody knows."""
    return bool(stated.version and (file["bytes"], file.get("version")) == (stated.size, stated.version))
