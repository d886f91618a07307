"""Sharded checkpoints and diffusers folders: many files, one plan."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from ckptool.address import NO_NAMES, Source
from ckptool.convert.remote import Where, enter_at, open_at
from ckptool.errors import Malformed, Refused, UsageError
from ckptool.source import Bytes, Record
from ckptool.tensor import Finding, Plan, Tensor
from ckptool.text import escape

MAX_INDEX = 1 << 26
MAX_SHARDS = 10_000
INDEXES = (
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
# A component of a diffusers folder, in the order of trust: safetensors before pickles, sharded or whole.
WEIGHTS = (
    "diffusion_pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.bin", "pytorch_model.bin",
)  # fmt: skip


def is_index(path: Source | Where) -> bool:
    return path.name.endswith(".index.json")


def read_json(source: Bytes) -> Any:
    """A small JSON file as data. Raises Malformed."""
    if source.size > MAX_INDEX:
        raise Malformed(f"{source.label}: an index of {source.size:,} bytes", "get another copy")
    data = Record.whole(source).read(0, source.size)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{source.label}: not JSON: {escape(str(error), 80)}", "get another copy") from error


def read_index(path: Where, stack: ExitStack) -> Plan:
    """The plan of all shards that an index names, each in the index's own folder."""
    from ckptool.convert.read import read_file

    source = enter_at(path, stack)
    weight_map = read_weight_map(source)
    plans = [read_file(shard, stack) for shard in shards_of(path, weight_map)]
    merged = merge(path, "sharded", [("", plan) for plan in plans])
    missing = sorted(weight_map.keys() - {tensor.name for tensor in merged.tensors})
    if missing:
        raise Malformed(
            f"{escape(str(path))}: {len(missing):,} of its tensors are in no shard, such as {escape(missing[0], 80)}",
            "the shards and the index do not belong together: get them again",
        )
    # The index is a source as well: it must not be replaced either.
    return replace(merged, sources=(*merged.sources, Record.whole(source)))


@overload
def shard_paths(path: Path) -> Sequence[Path]: ...
@overload
def shard_paths(path: Where) -> Sequence[Where]: ...
def shard_paths(path: Where) -> Sequence[Where]:
    """The files that an index names."""
    with open_at(path) as source:
        return shards_of(path, read_weight_map(source))


def shards_of(path: Where, weight_map: dict[str, str]) -> list[Where]:
    """The files of an index, which must be beside it."""
    return [shard_path(path, file) for file in sorted(set(weight_map.values()))]


def read_weight_map(source: Bytes) -> dict[str, str]:
    """Tensor name -> file name. Raises Malformed."""
    index = read_json(source)
    weight_map = index.get("weight_map") if type(index) is dict else None
    if type(weight_map) is not dict or not weight_map or not all(type(file) is str for file in weight_map.values()):
        raise Malformed(
            f"{source.label}: has no weight_map from tensors to files", "give the *.index.json of a sharded model"
        )
    return weight_map


def shard_path(index: Where, file: str) -> Where:
    """A shard beside its index. Raises Malformed for a name that leads elsewhere."""
    if "/" in file or "\\" in file or "\0" in file or file in NO_NAMES:
        raise Malformed(
            f"{escape(str(index))}: names a shard outside its folder: {escape(file, 80)}", "do not trust the index"
        )
    path = index.parent / file
    # False too for names that no file system takes
    if not (os.path.exists(path) if isinstance(path, Path) else path.exists()):
        raise Refused(
            f"{escape(str(index))}: its shard {escape(file, 80)} is missing", "download all shards into the same folder"
        )
    return path


def merge(path: Where, form: str, parts: list[tuple[str, Plan]]) -> Plan:
    """One plan of several, each with a prefix for its names."""
    if len(parts) > MAX_SHARDS:
        raise Refused(f"{escape(str(path))}: more than {MAX_SHARDS:,} files", "give one model at a time")
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    findings: list[Finding] = []
    for prefix, plan in parts:
        for tensor in plan.tensors:
            name = prefix + tensor.name
            if name in tensors:
                raise Malformed(
                    f"{escape(str(path))}: the tensor {escape(name, 80)} is in two files", "keep one of them"
                )
            tensors[name] = replace(tensor, name=name) if prefix else tensor
        for key, value in plan.metadata.items():
            metadata.setdefault(prefix + key if prefix and key != "format" else key, value)
        label = Path(plan.sources[0].source.label).name
        findings += [
            replace(finding, entry=f"{label}/{finding.entry}" if finding.entry else label) for finding in plan.findings
        ]
    dropped = tuple(replace(d, name=prefix + d.name) for prefix, plan in parts for d in plan.dropped)
    sources = tuple(record for _, plan in parts for record in plan.sources)
    return Plan(form, tuple(tensors.values()), dropped, metadata, tuple(findings), sources)


def read_folder(folder: Where, stack: ExitStack) -> Plan:
    """A diffusers folder (`unet.…`, `vae.…`), a sharded model, or a folder with one model in it."""
    if (folder / "model_index.json").is_file():
        return read_diffusers(folder, stack)
    plan = read_weights(folder, stack)
    if plan is None:
        raise UsageError(
            f"{escape(str(folder))}: neither a diffusers folder nor a model in parts",
            f"give a file, or a folder with one of {', '.join(INDEXES)}",
        )
    return plan


def read_diffusers(folder: Where, stack: ExitStack) -> Plan:
    """Each component of the pipeline under its own name."""
    parts: list[tuple[str, Plan]] = []
    for component in sorted(subfolders(folder), key=lambda path: path.name):
        plan = read_weights(component, stack)
        if plan is not None:
            parts.append((f"{component.name}.", plan))
    if not parts:
        raise Refused(f"{escape(str(folder))}: a diffusers folder without weights", "download its weights too")
    return merge(folder, "diffusers", parts)


def subfolders(folder: Where) -> Iterator[Where]:
    return (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_weights(folder: Where, stack: ExitStack) -> Plan | None:
    """The weights of one component, None when there are none."""
    from ckptool.convert.read import read_file

    for name in INDEXES[:2]:
        if (folder / name).is_file():
            return read_index(folder / name, stack)
    for name in WEIGHTS[:2]:
        if (folder / name).is_file():
            return read_file(folder / name, stack)
    if (folder / INDEXES[2]).is_file():
        return read_index(folder / INDEXES[2], stack)
    for name in WEIGHTS[2:]:
        if (folder / name).is_file():
            return read_file(folder / name, stack)
    return None
