"""Where attention stands in a UNet, and how wide it is: what tells the UNets of Stable Diffusion apart.

The same observations are made on whole networks, on ControlNets and on adapters, in the names of LDM
(`input_blocks.4.1`), of diffusers (`down_blocks.1.attentions.0`) and of kohya (the same with underscores).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ckptool.identify.families import TITLES, UNET_BASES, UNETS, Place
from ckptool.identify.signs import PLACE, RATIO, STRUCTURE, WIDTH, Sign

MAX_NAME = 400
"""Characters; a longer name is no layer's."""
BLOCK = re.compile(
    r"(?:^|_)(?:(?P<ldm>input|output)_blocks_(?P<index>\d{1,3})_1|middle_block_1"
    r"|(?P<side>down|up)_blocks_(?P<level>\d{1,3})_attentions_\d{1,3}|mid_block_attentions_\d{1,3})"
    r"_(?:transformer_blocks_(?P<depth>\d{1,4})_(?P<layer>[a-z0-9]{1,12}(?:_[a-z0-9]{1,12}){0,4})|proj_(?P<proj>in|out))"
)
"""A part of attention, dots written as underscores."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One layer of attention."""

    place: Place
    depth: int
    """Number of its transformer block; -1 for the projections around them."""
    layer: str
    """attn2_to_k, attn1_to_q, proj_in …, then what the name goes on with."""


def seen_in(name: str) -> Seen | None:
    """What layer of attention a tensor belongs to, None for any other."""
    if len(name) > MAX_NAME or ("transformer_blocks" not in name and "proj_" not in name):
        return None
    found = BLOCK.search(name.replace(".", "_"))
    if found is None:
        return None
    place = place_of(found["ldm"], found["index"], found["side"], found["level"])
    if found["proj"]:
        return Seen(place, -1, f"proj_{found['proj']}")
    return Seen(place, int(found["depth"]), found["layer"])


def place_of(ldm: str | None, index: str | None, side: str | None, level: str | None) -> Place:
    """LDM numbers its blocks through, two with a downsampler or three on the way up for a level of diffusers."""
    if ldm == "input" and index:
        return "down", (int(index) - 1) // 3
    if ldm == "output" and index:
        return "up", int(index) // 3
    return (side, int(level)) if side and level else ("mid", 0)


@dataclass(frozen=True, slots=True)
class Cross:
    """The keys of one cross attention: what tells the base."""

    place: Place
    context: int
    """Inputs: the width of the text."""
    inner: int | None
    """Outputs: the width of the block, where it is known."""
    evidence: str


def cross_signs(crosses: Iterable[Cross]) -> Iterator[Sign]:
    """What the widths of cross attention say, taken as they are, and one by the other."""
    crosses = [cross for cross in crosses if cross.context > 0]
    if not crosses:
        return
    widths = {cross.context for cross in crosses}
    first = crosses[0]
    if len(widths) > 1:
        other = next(cross for cross in crosses if cross.context != first.context)
        # Two networks in one, or damage: both widths are said, and they exclude each other.
        yield from (width_sign(cross, STRUCTURE) for cross in (first, other))
        return
    yield width_sign(first, WIDTH)
    says = frozenset(base for base in UNET_BASES if all(fits(base, cross) for cross in crosses))
    if says and any(cross.inner for cross in crosses):
        shown = next(cross for cross in crosses if cross.inner)
        yield Sign(RATIO, says, f"{shown.evidence}: context to block as in {titles(says)}")


def width_sign(cross: Cross, strength: str) -> Sign:
    says = frozenset(base for base, unet in UNETS.items() if unet.context == cross.context)
    return Sign(strength, says, f"{cross.evidence}: context {cross.context}, {titles(says)}")


def fits(base: str, cross: Cross) -> bool:
    """Whether context and block stand to each other as in `base`, whatever all of it was divided by."""
    unet = UNETS[base]
    multiple = unet.attends.get(cross.place)
    if multiple is None:
        return False
    return not cross.inner or cross.context * unet.channels * multiple == cross.inner * unet.context


def place_signs(seen: dict[Place, str], depth: int, whole: bool, deepest: str) -> Iterator[Sign]:
    """What the places of attention say, and how many transformer blocks stand in one.

    `seen`: evidence for each place. `whole`: the network is complete, so that what is missing says something too.
    """
    for place, evidence in seen.items():
        says = frozenset(base for base, unet in UNETS.items() if place in unet.attends)
        if len(says) < len(UNETS):
            yield Sign(PLACE, says, f"{evidence}: attention there as in {titles(says)}")
    if whole and seen and ("down", 0) not in seen:
        says = frozenset(base for base, unet in UNETS.items() if ("down", 0) not in unet.attends)
        yield Sign(PLACE, says, f"no attention in the first level, as in {titles(says)}")
    if depth >= 1:
        says = frozenset(base for base, unet in UNETS.items() if unet.depth > depth)
        yield Sign(STRUCTURE, says, f"{deepest}: transformer block {depth}, {titles(says)}")


def titles(bases: frozenset[str]) -> str:
    """The bases in words, in the order of the table."""
    names = [TITLES[base] for base in UNET_BASES if base in bases]
    return " or ".join(names) if names else "no network that is known"
