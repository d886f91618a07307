"""What an adapter's metadata says of rank and alpha, brought in line with its tensors."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ckptool.prune.rank_peft import KEY, Settings, updated

DYNAMIC = "Dynamic"
"""What kohya's own resizing writes where modules differ."""


@dataclass(frozen=True, slots=True)
class Now:
    """A module as it is after the step."""

    layer: str
    rank: int
    alpha: float | None
    kernel: bool
    """It is a convolution of more than 1 × 1: kohya counts those apart."""


def brought_in_line(
    metadata: dict[str, str], settings: Settings | None, modules: Iterable[Now], plain: bool
) -> dict[str, str]:
    """Metadata for the modules as they are now. `plain`: all of them have become plain LoRA. Adds no key."""
    every = list(modules)
    linear = [module for module in every if not module.kernel]
    result = dict(metadata)
    if linear:
        replace_present(result, "ss_network_dim", common(module.rank for module in linear))
        replace_present(result, "ss_network_alpha", common(map(effective, linear)))
    if plain:
        replace_present(result, "ss_network_module", "networks.lora")
    if "ss_network_args" in result:
        kernels = [module for module in every if module.kernel]
        result["ss_network_args"] = arguments(result["ss_network_args"], kernels, plain)
    without = {module.layer: module.rank for module in every if module.alpha is None}
    if settings and without:
        result[KEY] = json.dumps(updated(settings, without), indent=2, sort_keys=True)
    return result


def replace_present(metadata: dict[str, Any], key: str, value: str) -> None:
    if key in metadata:
        metadata[key] = value


def effective(module: Now) -> float:
    """Loaders take the rank for an alpha that is not there."""
    return float(module.rank) if module.alpha is None else module.alpha


def common(values: Iterable[float]) -> str:
    found = set(values)
    return str(found.pop()) if len(found) == 1 else DYNAMIC


def arguments(text: str, kernels: list[Now], plain: bool) -> str:
    """kohya's arguments as JSON, where rank and alpha of convolutions and LyCORIS's algorithm stand."""
    try:
        args = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(args, dict):
        return text
    before = dict(args)
    if kernels:
        replace_present(args, "conv_dim", common(module.rank for module in kernels))
        replace_present(args, "conv_alpha", common(map(effective, kernels)))
    if plain:
        replace_present(args, "algo", "locon" if kernels else "lora")
    return text if args == before else json.dumps(args)
