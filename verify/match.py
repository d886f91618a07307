"""Which tensor of the original each tensor of the candidate should be."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ckptool.identify.ema import Ema
from ckptool.prune.standalone import CLIP, PREFIXES
from ckptool.tensor import Plan, Tensor

PLAIN, EMA, RAW = "plain", "ema", "raw"


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A tensor of the original that one of the candidate may be."""

    tensor: Tensor
    how: str
    """PLAIN: the one of that name; EMA: the average of that weight; RAW: the weight behind `params.`."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A tensor of the candidate, and what it may be."""

    candidate: Tensor
    plain: str
    """Its name in the original."""
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    pairs: tuple[Pair, ...]
    new: tuple[Tensor, ...]
    """Tensors of the candidate without any in the original."""
    prefix: str = ""
    """What an extraction took from the front of names."""


def match(original: Plan, candidate: Plan, ema: Ema | None) -> Matching:
    """By name; where names of the candidate are unknown, by what an extraction takes from the front of them."""
    sources = sources_of(original, ema)
    unknown = [tensor.name for tensor in candidate.tensors if tensor.name not in sources]
    prefix = prefix_of(unknown, sources)
    pairs: list[Pair] = []
    new: list[Tensor] = []
    taken: set[str] = set()
    for tensor in candidate.tensors:
        plain = tensor.name if tensor.name in sources else with_prefix(tensor.name, prefix, sources) if prefix else None
        if plain is None or plain in taken:
            new.append(tensor)
        else:
            taken.add(plain)
            pairs.append(Pair(tensor, plain, tuple(sources[plain])))
    return Matching(tuple(pairs), tuple(new), prefix)


def sources_of(original: Plan, ema: Ema | None) -> dict[str, list[Source]]:
    """Name of a weight -> every tensor that may stand under it."""
    sources = {tensor.name: [Source(tensor, PLAIN)] for tensor in original.tensors}
    if ema is None:
        return sources
    for name, twin in ema.twins.items() if not ema.raw_prefix else ():
        sources.setdefault(name, []).append(Source(twin, EMA))
    # Where the average has the plain names, the weights stand behind a prefix; that may have been taken away.
    for tensor in original.tensors if ema.raw_prefix else ():
        plain = tensor.name.removeprefix(ema.raw_prefix)
        if plain != tensor.name:
            sources.setdefault(plain, []).append(Source(tensor, RAW))
    return sources


def prefix_of(unknown: Iterable[str], sources: dict[str, list[Source]]) -> str:
    """The prefix of a component behind which most unknown names are known; empty where none is."""
    found: Counter[str] = Counter()
    names = tuple(unknown)
    for prefix in dict.fromkeys(prefix for prefixes in PREFIXES.values() for prefix in prefixes):
        found[prefix] = sum(with_prefix(name, prefix, sources) is not None for name in names)
    best = found.most_common(1)
    return best[0][0] if best and best[0][1] else ""


def with_prefix(name: str, prefix: str, sources: dict[str, list[Source]]) -> str | None:
    """The name in the original of a component's tensor, whose text model may have stood without `text_model.`."""
    choices = (prefix + name, prefix + name.removeprefix(CLIP))
    return next((choice for choice in choices if choice in sources), None)
