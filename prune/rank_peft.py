"""The PEFT settings that diffusers keeps in an adapter's metadata: the alpha of modules without one in the file.

`lora_adapter_metadata` is a JSON object of settings, their names with the component in front: `unet.r`,
`unet.lora_alpha`, `unet.rank_pattern`. Loaders believe it before the shapes, so it has to follow them.
"""

import json
from collections import Counter
from collections.abc import Iterable
from math import isfinite, sqrt
from typing import Any

from ckptool.identify.adapters import AdapterModule
from ckptool.prune.rank_update import PLAIN
from ckptool.prune.svd import Unfit

KEY = "lora_adapter_metadata"
Settings = dict[str, Any]


def read_settings(metadata: dict[str, str], modules: Iterable[AdapterModule]) -> Settings | None:
    """The settings, none when there are none; None when they cannot be read for each module that needs them."""
    if KEY not in metadata:
        return {}
    try:
        settings = json.loads(metadata[KEY])
    except (ValueError, RecursionError):
        return None
    if not isinstance(settings, dict):
        return None
    try:
        for module in modules:
            if module.algorithm in PLAIN and "alpha" not in module.parts:
                scale(settings, module.layer)
    except Unfit:
        return None
    return settings


def component(settings: Settings, layer: str) -> str:
    """What stands before the names of the settings that hold for a layer: `unet.`, or nothing."""
    first = f"{layer.partition('.')[0]}."
    return first if f"{first}r" in settings else ""


def scale(settings: Settings | None, layer: str) -> float:
    """alpha / rank of a layer without alpha in the file: 1 unless the settings say another."""
    if settings is None:
        raise Unfit("the metadata's PEFT settings cannot be read, and alpha stands there")
    before = component(settings, layer)
    if f"{before}r" not in settings:
        return 1.0
    rest = layer.removeprefix(before)
    rank = number(setting(settings, before, "rank_pattern", rest, "r"))
    alpha = number(setting(settings, before, "alpha_pattern", rest, "lora_alpha"))
    return alpha / divisor(settings, before, rank)


def setting(settings: Settings, before: str, patterns: str, layer: str, default: str) -> Any:
    """A layer's own value where a pattern names it, else that of all. Patterns are read as ends of names only."""
    named = settings.get(f"{before}{patterns}") or {}
    if not isinstance(named, dict):
        raise Unfit(f"the metadata's PEFT settings have no readable {patterns}")
    for key, value in named.items():
        if not key.replace(".", "").replace("_", "").isalnum():
            raise Unfit(f"the metadata's PEFT settings have a {patterns} that is no name")
        if layer == key or layer.endswith(f".{key}"):
            return value
    return settings.get(f"{before}{default}")


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6 or not isfinite(value):
        raise Unfit("the metadata's PEFT settings have no readable rank and alpha")
    return float(value)


def divisor(settings: Settings, before: str, rank: float) -> float:
    """What alpha is divided by: the rank, or its root where rank-stabilised scaling is on."""
    return sqrt(rank) if settings.get(f"{before}use_rslora") else rank


def updated(settings: Settings, ranks: dict[str, int]) -> Settings:
    """The settings for the ranks that the layers have now, every scale as it was.

    The most frequent rank stands for all, the others by name.
    """
    result = dict(settings)
    for before in dict.fromkeys(component(settings, layer) for layer in ranks):
        if f"{before}r" not in settings:
            continue
        mine = {layer: rank for layer, rank in ranks.items() if component(settings, layer) == before}
        alphas = {n: plain(scale(settings, n) * divisor(settings, before, rank)) for n, rank in mine.items()}
        for values, single, patterns in ((mine, "r", "rank_pattern"), (alphas, "lora_alpha", "alpha_pattern")):
            usual = Counter(values.values()).most_common(1)[0][0]
            others = {layer.removeprefix(before): value for layer, value in values.items() if value != usual}
            result |= {f"{before}{single}": usual, f"{before}{patterns}": others}
    return result


def plain(value: float) -> float:
    """A whole number as one, as PEFT writes it."""
    return round(value) if abs(value - round(value)) < 1e-9 else value
