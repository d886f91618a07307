"""One tensor of the candidate while it is being explained: which tensor of the original it is held against."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ckptool.convert.crew import Advance
from ckptool.tensor import Tensor
from ckptool.verify.compare import Comparison, compare, ignore
from ckptool.verify.difference import Counts
from ckptool.verify.histogram import Histograms
from ckptool.verify.match import EMA, PLAIN, RAW, Pair
from ckptool.verify.reach import Spool

PROBE = 1 << 13
"""Elements that tell which of two tensors one was made from."""


@dataclass(slots=True, eq=False)
class Item:
    """A pair, and its comparisons by how the tensor may have come about."""

    pair: Pair
    component: str
    comparisons: dict[str, Comparison]
    how: str = ""
    done: dict[str, Counts] = field(default_factory=dict)
    """What was found, of those that were compared as a whole."""
    why: str = ""
    """Why it is unexplained; empty where it is explained, as far as is known."""

    @property
    def name(self) -> str:
        return self.pair.candidate.name

    @property
    def comparison(self) -> Comparison:
        return self.comparisons[self.how]

    @property
    def nbytes(self) -> int:
        """Of both tensors."""
        first = next(iter(self.comparisons.values()))
        return first.original.tensor.nbytes + self.pair.candidate.nbytes

    @property
    def original(self) -> Tensor:
        return self.comparison.original.tensor

    @property
    def total(self) -> Counts:
        return self.done[self.how]

    @property
    def twofold(self) -> bool:
        """Whether there is a weight and an average of it."""
        return len(self.pair.sources) > 1

    def settle(self) -> None:
        """Take the comparison that leaves least unexplained, the plain one of equals."""
        self.how = min(self.done, key=lambda how: (self.done[how].wrong, self.done[how].zeroed, how != PLAIN))


def item_of(pair: Pair, component: str, scale: float, spool: Spool) -> Item:
    """`why` says so where nothing can be held against the tensor."""
    comparisons: dict[str, Comparison] = {}
    candidate = pair.candidate
    for source in pair.sources:
        if source.tensor.shape == candidate.shape:
            made = Comparison(spool.reach(source.tensor), spool.reach(candidate), scale, component)
            if made.comparable:
                comparisons.setdefault(source.how, made)
    item = Item(pair, component, comparisons)
    if not comparisons:
        first = pair.sources[0].tensor
        item.why = (
            f"its shape was {list(first.shape)} and is {list(candidate.shape)}"
            if first.shape != candidate.shape
            else f"its values were {first.dtype} and are {candidate.dtype}"
        )
    return item


def choose(items: Iterable[Item]) -> None:
    """Which tensor of the original each is likely to be, told from the first elements.

    The others are read only where it is not the plain one to the last bit: they may lie on another machine.
    """
    several = [item for item in items if len(item.comparisons) > 1]
    probe((item, how) for item in several for how in item.comparisons if how == PLAIN)
    unsure = [item for item in several if not item.done or item.done[PLAIN].wrong or item.done[PLAIN].zeroed]
    probe((item, how) for item in unsure for how in item.comparisons if how != PLAIN)
    for item in several:
        item.settle()
        item.done = {}


def probe(wanted: Iterable[tuple[Item, str]]) -> None:
    """Compare the first elements alone."""
    probes = [(item, how, beginning(item.comparisons[how])) for item, how in wanted]
    compare(made for _, _, made in probes)
    for item, how, made in probes:
        item.done[how] = made.seen.total()


def beginning(whole: Comparison) -> Comparison:
    return Comparison(whole.original, whole.candidate, whole.scale, limit=PROBE)


def compare_items(items: list[Item], advance: Advance = ignore, histograms: Histograms | None = None) -> None:
    """Compare each with what it is likely to be, and where that is wrong with what else it may be."""
    for item in items:
        item.how = item.how or next(iter(item.comparisons))
    compare((item.comparison for item in items), advance, histograms)
    for item in items:
        item.done[item.how] = item.comparison.seen.total()
    compare_others([item for item in items if item.total.wrong])


def compare_others(items: list[Item]) -> None:
    left = [(item, how) for item in items for how in item.comparisons if how not in item.done]
    compare(item.comparisons[how] for item, how in left)
    for item, how in left:
        item.done[how] = item.comparisons[how].seen.total()
    for item in items:
        item.settle()


def refuse_mixture(items: list[Item], missing: Iterable[str]) -> None:
    """Weights and averages side by side are no model: say so of the fewer ones. `missing`: weights without average."""
    several = [item for item in items if item.twofold and not item.total.wrong]
    averaged = [item for item in several if is_average(item)]
    raw = [item for item in several if not is_average(item)]
    few, many = (averaged, raw) if len(averaged) <= len(raw) else (raw, averaged)
    words = ("an average (EMA)", "raw weights") if few is averaged else ("a raw weight", "averages (EMA)")
    # A weight that is its own average belongs to either side.
    left = others_than(few, many)
    if left and others_than(many, few):
        for item in left:
            item.why = f"holds {words[0]}, while {len(many):,} others hold {words[1]}: a mixture is no model"
    names = set(missing) if sum(is_average(item) for item in several) * 2 > len(several) else set()
    for item in items:
        if item.pair.plain in names and not item.why:
            item.why = f"holds a raw weight that has no average, beside {len(averaged):,} averages (EMA)"


def others_than(few: list[Item], many: list[Item]) -> list[Item]:
    """Of `few` those that are not as well what `many` are; where there are none, all are taken for that."""
    if not few or not many:
        return []
    for how in many[0].comparisons.keys() - {few[0].how}:
        compare_others(few)
        left = [item for item in few if not as_well(item, how)]
        for item in few if not left else ():
            item.how = how
        return left
    return few


def as_well(item: Item, how: str) -> bool:
    """Whether another tensor of the original explains it no worse."""
    other, mine = item.done.get(how), item.total
    return other is not None and not other.wrong and (other.zeroed, other.signs) <= (mine.zeroed, mine.signs)


def is_average(item: Item) -> bool:
    """Where the averages have the plain names, it is the weights whose names were changed."""
    return item.how == EMA or (item.how == PLAIN and RAW in item.comparisons)
