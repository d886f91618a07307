"""What the tests of ranks share: adapters of known singular values, and their updates as dense products."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ckptool.convert.read import read
from ckptool.convert.writer import write
from ckptool.prune.rank import RankStep
from ckptool.report import Report
from ckptool.tensor import Plan

Tensors = dict[str, torch.Tensor]
KOHYA = ("lora_up.weight", "lora_down.weight")
PEFT = ("lora_B.weight", "lora_A.weight")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def with_values(values: list[float], rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(up, down) whose product has these singular values and no others."""
    u = torch.linalg.qr(random(rows, len(values), seed=seed)).Q
    v = torch.linalg.qr(random(columns, len(values), seed=seed + 1)).Q
    roots = torch.tensor(values, dtype=torch.float64).sqrt()
    # Any change of basis between the two leaves the product as it is.
    basis = random(len(values), len(values), seed=seed + 2) + 3 * torch.eye(len(values), dtype=torch.float64)
    return u * roots @ basis, torch.linalg.solve(basis, roots[:, None] * v.T)


def lora(
    name: str,
    up: torch.Tensor,
    down: torch.Tensor,
    alpha: float | None = None,
    dtype: torch.dtype = torch.float32,
    endings: tuple[str, str] = KOHYA,
) -> Tensors:
    tensors = {f"{name}.{endings[0]}": up.to(dtype), f"{name}.{endings[1]}": down.to(dtype)}
    return tensors if alpha is None else tensors | {f"{name}.alpha": torch.tensor(alpha, dtype=dtype)}


def update(tensors: Tensors, name: str) -> torch.Tensor:
    """What a loader adds to the weight: written out by definition, in float64, as rows and all columns."""
    part = {
        key.removeprefix(f"{name}.").removesuffix(".weight"): tensor.double()
        for key, tensor in tensors.items()
        if key.startswith(f"{name}.")
    }
    alpha = part.get("alpha")
    match part:
        case {"lora_up": up, "lora_down": down} | {"lora_B": up, "lora_A": down}:
            scale = 1.0 if alpha is None else alpha / down.shape[0]
            if "lora_mid" in part:
                core = part["lora_mid"]
                return scale * torch.einsum("nmkl,in,mj->ijkl", core, up.flatten(1), down.flatten(1)).flatten(1)
            return scale * up.flatten(1) @ down.flatten(1)
        case {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}:
            scale = 1.0 if alpha is None else alpha / b1.shape[0]
            if "hada_t1" in part:
                one, two = (
                    torch.einsum("ijkl,jr,ip->prkl", core, b, a)
                    for core, a, b in ((part["hada_t1"], a1, b1), (part["hada_t2"], a2, b2))
                )
                return scale * (one * two).flatten(1)
            return scale * (a1 @ b1) * (a2 @ b2)
        case {"diff": diff}:
            return diff.flatten(1)
        case _:
            return kron_update(part)


def kron_update(part: Tensors) -> torch.Tensor:
    halves, rank = [], None
    for number in "12":
        if f"lokr_w{number}" in part:
            halves.append(part[f"lokr_w{number}"])
            continue
        a, b = part[f"lokr_w{number}_a"], part[f"lokr_w{number}_b"]
        rank = b.shape[0]
        core = part.get(f"lokr_t{number}")
        halves.append(a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a))
    one, two = halves
    scale = part["alpha"] / rank if rank and "alpha" in part else 1.0
    return scale * torch.kron(one.reshape(*one.shape, *(1 for _ in two.shape[2:])), two.contiguous()).flatten(1)


def best(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The best approximation of that rank (Eckart and Young)."""
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * values[:rank] @ vt[:rank]


def relative(some: torch.Tensor, other: torch.Tensor) -> float:
    """The distance of two updates relative to the second."""
    return float((some - other).norm() / other.norm())


@dataclass(frozen=True, slots=True)
class Done:
    """The file that a step made of another, and what it reported."""

    tensors: Tensors
    plan: Plan
    report: Report
    data: bytes


def done(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None, **options: Any) -> Done:
    """Write a file, lower its rank, write that, and read it with the format's own library."""
    source, target = folder / "source.safetensors", folder / "target.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source, metadata)
    return done_file(source, target, **options)


def done_file(source: Path, target: Path, **options: Any) -> Done:
    step = RankStep(**options)
    with ExitStack() as stack:
        plan = step(read(source, stack))
        write(plan, target, force=True)
    return Done(load_file(target), plan, step.data(plan), target.read_bytes())
