"""The first level of `verify`: every tensor of the candidate is explained by the original, or named as unexplained."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from math import prod

from ckptool.convert.crew import Advance, each
from ckptool.convert.inflate import check_crc
from ckptool.convert.sums import left_over
from ckptool.identify.ema import Ema, find_ema
from ckptool.identify.identify import identify
from ckptool.identify.naming import targets
from ckptool.prune.select import part_of
from ckptool.tensor import Plan, Tensor
from ckptool.verify.beside import is_marker, is_repair, scales_of, underfilled
from ckptool.verify.compare import Comparison, compare, ignore
from ckptool.verify.difference import Counts
from ckptool.verify.expect import Expectation
from ckptool.verify.explanation import Data, Explanation, Unexplained, difference_data
from ckptool.verify.histogram import Histograms
from ckptool.verify.items import Item, choose, compare_items, item_of, refuse_mixture
from ckptool.verify.losses import Used, how_used, losses
from ckptool.verify.match import EMA, PLAIN, Matching, match
from ckptool.verify.reach import Spool
from ckptool.verify.swaps import held_instead
from ckptool.verify.updates import Held, Module, changed_modules, hold
from ckptool.verify.zeroing import Looked, judge

DIFFERS = "its values differ"
NEW = "is not in the original"
Watch = Callable[[int], AbstractContextManager[Advance]]
"""Told how many bytes will be read; gives what is told of them as they are."""


def unwatched(_: int) -> AbstractContextManager[Advance]:
    return nullcontext(ignore)


def explain(
    original: Plan,
    candidate: Plan,
    expected: Expectation | None = None,
    watch: Watch = unwatched,
    histograms: Histograms | None = None,
) -> Explanation:
    """How the original explains the candidate. Memory is that of a few pieces (of one module, for a LoRA's rank).

    Each byte of both is read once; where values became zero, the originals of those components once more. Raises
    Malformed where the bytes of a file are not those that it summed.
    """
    with ExitStack() as stack:
        return Explainer(original, candidate, expected or Expectation(), Spool(stack), histograms).run(watch)


class Explainer:
    """One run, step by step."""

    def __init__(
        self, original: Plan, candidate: Plan, expected: Expectation, spool: Spool, histograms: Histograms | None
    ) -> None:
        self.original, self.candidate, self.expected = original, candidate, expected
        self.spool, self.histograms = spool, histograms
        self.found = Explanation()
        self.kind = identify(original).kind
        self.ema: Ema | None = find_ema(original)
        self.modules: list[Module] = changed_modules(original, candidate)
        self.matching: Matching = self.matched()
        self.scales: dict[str, float] = {}
        self.items: list[Item] = []
        parts = {self.component(pair.plain) for pair in self.matching.pairs}
        self.extracted = len(parts) == 1
        """All of the candidate is one component: that may have lost what stood in front of its names."""
        self.tied: dict[str, Comparison] = {}

    def run(self, watch: Watch) -> Explanation:
        self.prepare()
        live = [item for item in self.items if item.comparisons]
        choose(live)
        total = sum(item.nbytes for item in live)
        with watch(total) as advance:
            compare_items(live, advance, self.histograms)
        compare(self.tied.values())
        self.check_records(live)
        self.found.compared, self.found.bytes_compared = len(self.items), total
        refuse_mixture(live, self.ema.missing if self.ema else ())
        self.judge_zeros(live)
        for item in self.items:
            self.tell(item)
        self.tell_modules()
        self.tell_new()
        self.tell_losses()
        self.name_swaps()
        self.found.other_naming = in_other_names(self.original, self.candidate, self.matching)
        self.found.meant = self.original.tensors if self.found.other_naming else self.meant()
        return self.found

    # --- before anything is read -------------------------------------------------------------------------------

    def matched(self) -> Matching:
        """All but the modules whose update is made of other tensors now."""
        before = frozenset(name for module in self.modules for name in module.names[0])
        after = frozenset(name for module in self.modules for name in module.names[1])
        return match(without(self.original, before), without(self.candidate, after), self.ema)

    def prepare(self) -> None:
        self.scales = scales_of({t.name: t for t in self.candidate.tensors}, list(self.matching.new))
        for pair in self.matching.pairs:
            scale = self.scales.get(pair.candidate.name, 1.0)
            self.items.append(item_of(pair, self.component(pair.plain), scale, self.spool))
        held = {tensor.name: tensor for tensor in self.candidate.tensors}
        for tensor in self.original.tensors:
            kept = held.get(self.candidate.metadata.get(tensor.name, ""))
            if tensor.name not in held and kept is not None and kept.shape == tensor.shape:
                made = Comparison(self.spool.reach(tensor), self.spool.reach(kept))
                if made.comparable:
                    self.tied[tensor.name] = made

    def component(self, name: str) -> str:
        return part_of(name, self.kind)

    def check_records(self, live: list[Item]) -> None:
        """Records that did not pass as a whole are read for their sums."""
        for side in (0, 1):
            spans = [item.comparison.sides[side] for item in live]
            tensors = [replace(reach.tensor, data=reach.span) for reach in spans]
            each(left_over(tensors), check_crc)

    # --- what it means -----------------------------------------------------------------------------------------

    def judge_zeros(self, live: list[Item]) -> None:
        looked = [Looked(item.name, item.comparison, item.total) for item in live if not item.total.wrong]
        judgement = judge(looked, self.expected)
        for item in live:
            item.why = item.why or judgement.refused.get(item.name, "")
        found = self.found
        found.zeroed, found.threshold, found.relative = judgement.components, judgement.threshold, judgement.relative
        if judgement.inferred and judgement.components:
            unit = " of the RMS of each tensor" if judgement.relative else ""
            found.inferred.append(f"values up to {judgement.threshold:.4g}{unit} became zero: a threshold near that")

    @property
    def threshold(self) -> float:
        """The one that was found at work, where it is the same for all tensors; else 0."""
        return 0.0 if self.found.relative else self.found.threshold or 0.0

    def tell(self, item: Item) -> None:
        candidate = item.pair.candidate
        repaired = is_repair(item.pair.sources[0].tensor, candidate)
        if item.comparisons and not item.why:
            item.why = trouble(item.total)
        if item.why and repaired and not (self.expected.stated and item.name not in self.expected.repaired):
            self.found.repaired.append(item.name)
            self.found.count(item.component, True)
            return
        item.why = item.why or self.unexpected(item) or (underfilled(item) if item.name in self.scales else "")
        if item.why:
            self.unexplained(
                item.name, item.component, item.why, first_of(item, self.threshold) if item.comparisons else None
            )
        else:
            self.found.count(item.component, True)
            self.tell_explained(item)

    def unexplained(self, name: str, component: str, why: str, first: Data | None = None) -> None:
        self.found.unexplained.append(Unexplained(name, component, why, first))
        self.found.count(component, False)

    def tell_explained(self, item: Item) -> None:
        found, candidate, before = self.found, item.pair.candidate, item.original
        if candidate.name != (item.pair.plain if item.how == EMA else before.name):
            found.renamed.append({"from": before.name, "to": candidate.name})
        if item.how == EMA:
            found.ema.append({"name": candidate.name, "from": before.name})
        if before.dtype != candidate.dtype:
            data: Data = {"name": candidate.name, "component": item.component}
            data |= {"from": before.dtype, "to": candidate.dtype}
            data |= {"clamped": item.total.clamped} if item.total.clamped else {}
            data |= {"scale": self.scales[candidate.name]} if candidate.name in self.scales else {}
            found.cast.append(data)
        elif item.how != EMA and not item.total.zeroed:
            found.identical += 1
        if item.total.zeroed:
            zeroed = found.zeroed[item.component]
            zeroed["tensors"] = zeroed.get("tensors", 0) + 1
            found.made_zero[candidate.name] = item.total.zeroed

    def unexpected(self, item: Item) -> str:
        """What is beyond what a report says, and names that no loader would find."""
        expected, candidate, plain = self.expected, item.pair.candidate, item.pair.plain
        if candidate.name != plain and not self.extracted:
            return f"was named {plain}"
        if not expected.stated:
            return ""
        names = (candidate.name, plain)
        before, after = item.original.dtype, candidate.dtype
        if before != after and after not in (expected.cast.get(name) for name in names):
            said = next((expected.cast[name] for name in names if name in expected.cast), None)
            return f"was cast from {before} to {after}, and the report says {f'to {said}' if said else 'no such cast'}"
        averaged = expected.dropped.get(plain, "").startswith("replaced by its EMA")
        averaged |= expected.dropped.get(item.original.name, "") == f"written as {plain}"
        if item.how == EMA and not averaged:
            return "holds the average (EMA), and the report does not say so"
        if item.twofold and item.how == PLAIN and averaged:
            return "holds the raw weight, and the report says that it is the average (EMA)"
        if candidate.name != plain and candidate.name not in expected.renamed:
            return f"was named {plain}, and the report does not say so"
        return ""

    def tell_modules(self) -> None:
        for name, held in hold(self.modules, self.original, self.candidate).items():
            why = held if isinstance(held, str) else self.rank_trouble(name, held)
            if isinstance(held, Held) and not why:
                self.found.count(self.component(name), True)
                self.found.rank[name] = {
                    "from": held.before, "to": held.after, "relative_error": rounded(held.relative_error),
                    "best": rounded(held.best),
                }  # fmt: skip
            else:
                self.unexplained(name, self.component(name), f"its update: {why}")

    def rank_trouble(self, name: str, held: Held) -> str:
        said = self.expected.ranks
        if self.expected.stated and said.get(name) != held.after:
            return f"has rank {held.after}, and the report says {said.get(name, 'nothing')}"
        if held.fits:
            return ""
        return f"is off by {held.relative_error:.3g}, and rank {held.after} allows for {held.best:.3g}"

    def tell_new(self) -> None:
        weights = {f"{name.removesuffix('weight')}scale_weight" for name in self.scales}
        for tensor in self.matching.new:
            if tensor.name in weights:
                self.found.added.append({"name": tensor.name, "reason": "scale of an FP8 weight"})
            elif self.scales and is_marker(tensor):
                self.found.added.append({"name": tensor.name, "reason": "marks scaled FP8 weights"})
            else:
                self.unexplained(tensor.name, self.component(tensor.name), NEW)

    def tell_losses(self) -> None:
        live = [item for item in self.items if item.comparisons]
        used: Used = how_used((item.pair.plain, item.original.name, item.how) for item in live)
        used.names |= {item.pair.sources[0].tensor.name for item in self.items if not item.comparisons}
        used.names |= {name for module in self.modules for name in module.names[0]}
        tied = {name for name, made in self.tied.items() if not trouble(made.seen.total())}
        turned = [name for module in self.modules for name in sorted(module.names[0] - module.names[1])]
        found = losses(without(self.original, frozenset(tied)), self.kind, self.ema, used, self.expected)
        dropped = {name: f"tied to {self.tied[name].candidate.tensor.name}" for name in sorted(tied)}
        dropped |= dict.fromkeys(turned, "part of an update that is made of other tensors now")
        self.found.dropped = [{"name": name, "reason": reason} for name, reason in (dropped | found.dropped).items()]
        self.found.inferred += found.inferred
        told = {item.name for item in self.found.unexplained}
        for name, why in found.unexplained.items():
            if name not in told:
                self.unexplained(name, self.component(name), why)

    def name_swaps(self) -> None:
        names = {item.name for item in self.found.unexplained if item.why in (DIFFERS, NEW)}
        wrong = [tensor for tensor in self.candidate.tensors if tensor.name in names]
        holds = held_instead(wrong, self.original.tensors, self.spool, self.threshold)
        self.found.unexplained = [
            replace(item, why=f"holds the values of {holds[item.name]}")
            if item.name in holds and item.name in names
            else item
            for item in self.found.unexplained
        ]

    def meant(self) -> tuple[Tensor, ...]:
        """What was compared under the candidate's names; what is gone and should not be, under its own."""
        tensors = {
            item.name: replace(item.original if item.comparisons else item.pair.sources[0].tensor, name=item.name)
            for item in self.items
        }
        missing = {item.name for item in self.found.unexplained}
        parts = {name for module in self.modules for name in module.names[0]}
        for tensor in self.original.tensors:
            if tensor.name in missing or tensor.name in parts:
                tensors.setdefault(tensor.name, tensor)
        return tuple(tensors.values())


def in_other_names(original: Plan, candidate: Plan, matching: Matching) -> bool:
    """Whether most layers of one are in the other with the same shapes, but under LDM's names or those of diffusers."""
    if len(matching.pairs) > len(matching.new):
        return False
    before, after = ({(t.component, t.name): t for t in targets(plan.tensors)} for plan in (original, candidate))
    same = [
        key
        for key in before.keys() & after.keys()
        if before[key].source != after[key].source and prod(before[key].shape) == prod(after[key].shape)
    ]
    return len(same) * 2 > min(len(before), len(after))


def without(plan: Plan, names: frozenset[str]) -> Plan:
    return replace(plan, tensors=tuple(tensor for tensor in plan.tensors if tensor.name not in names))


def trouble(total: Counts) -> str:
    """Why the values of a tensor are not explained; empty where they are."""
    if total.lost and total.lost == total.wrong:
        return f"{total.lost:,} values beyond the range of its format became infinite or NaN"
    if total.wrong:
        return DIFFERS
    return "the sign of zeros changed" if total.signs and not total.zeroed else ""


def first_of(item: Item, threshold: float) -> Data | None:
    """Of what is not explained: zeros that a threshold explains elsewhere count only where nothing else is off."""
    total = item.total
    aside = bool(total.wrong) and total.largest_zeroed <= threshold
    found = [total.first] if aside else [total.first, total.first_zeroed, total.first_sign]
    first = min((one for one in found if one is not None), key=lambda one: one.index, default=None)
    differing = total.wrong if aside else total.wrong + total.zeroed + total.signs
    largest = total.max_abs if aside else max(total.max_abs, total.largest_zeroed)
    return difference_data(first, item.pair.candidate.shape, differing, item.comparison.elements, largest)


def rounded(number: float) -> float:
    return float(f"{number:.6g}")
