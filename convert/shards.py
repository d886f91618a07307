"""Split a plan into files of a largest size, with the index that names them."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ckptool.convert.stated import FORMS
from ckptool.errors import UsageError
from ckptool.tensor import Plan, Tensor

UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """Paths and plans of the files, and the index to write last."""

    files: tuple[tuple[Path, Plan], ...]
    index_path: Path
    index: bytes


def parse_size(text: str) -> int:
    """Bytes from `5GB`, `512MiB` or `1000000`. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)", text.strip().upper())
    unit = match.group(2) if match else None
    if unit in ("K", "M", "G", "T"):
        unit += "B"
    if match is None or unit not in (*UNITS, "B"):
        raise UsageError(f"{text!r} is not a size", "write it as 5GB, 512MiB or a number of bytes")
    size = int(float(match.group(1)) * UNITS.get(unit or "", 1))
    if size < 1:
        raise UsageError(f"{text!r} is not a size", "a shard holds at least one byte")
    return size


def split(plan: Plan, path: Path, limit: int) -> Shards | None:
    """Shards in the order of the source's tensors, None when all fit into one file."""
    groups: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in plan.tensors:
        if groups[-1] and filled + tensor.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    if len(groups) == 1:
        return None
    plan = replace(plan, metadata={k: v for k, v in plan.metadata.items() if k not in FORMS})  # hashes of one file
    stem = path.name.removesuffix(".safetensors")
    names = [f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    weight_map = {tensor.name: name for name, group in zip(names, groups, strict=True) for tensor in group}
    index = {"metadata": {"total_size": plan.nbytes}, "weight_map": dict(sorted(weight_map.items()))}
    files = tuple(
        (path.with_name(name), replace(plan, tensors=tuple(group))) for name, group in zip(names, groups, strict=True)
    )
    text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
    return Shards(files, path.with_name(f"{stem}.safetensors.index.json"), text.encode())
