"""The step of `ckptool prune`: everything that inference does not need goes, and the model stays what it was."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ckptool.errors import Refused, UsageError
from ckptool.identify.adapters import modules
from ckptool.identify.identify import identify
from ckptool.identify.identity import Identity
from ckptool.identify.quantised import quantised
from ckptool.prune.aliases import closed, opened
from ckptool.prune.ema import apply_ema
from ckptool.prune.modules import remove_near_zero_modules
from ckptool.prune.outcome import Outcome, fitted, leave_out
from ckptool.prune.position_ids import Repaired, repair, repaired_data
from ckptool.prune.rank import RankStep, rank_lines
from ckptool.prune.same import check_same
from ckptool.prune.select import Selection, canonical, check_matches, check_present, matching, part_of, select
from ckptool.prune.standalone import stand_alone
from ckptool.prune.threshold import (
    Zeroed,
    check_threshold,
    near_zero,
    refuse_quantised,
    rehearse,
    zeroed_data,
    zeroed_lines,
)
from ckptool.prune.training import training_reasons
from ckptool.reached import Reached, Step, moved
from ckptool.report import Report
from ckptool.tensor import Plan
from ckptool.text import escape, plural, size

ADAPTERS = frozenset({"lora", "lycoris"})
Measure = Callable[[Plan, Callable[[float], Step]], tuple[float, Reached]]
"""Gives the threshold to take and how far its step moves the model; raises when that is too far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line asks for."""

    ema: str | None = None
    """drop, use or keep; None drops what loaders do not read."""
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    threshold: float | Literal["auto"] | None = None
    relative: bool = False
    repair_position_ids: bool = False
    rank: int | Literal["auto"] | None = None
    rank_energy: float | None = None
    to_lora: bool = False

    @property
    def lowers_rank(self) -> bool:
        return self.rank is not None or self.rank_energy is not None or self.to_lora


class Prune:
    """The step of one run, which remembers what it did for the report."""

    def __init__(self, wishes: Wishes, folder: Path, dry_run: bool = False, measure: Measure | None = None) -> None:
        """`folder` takes what has to lie in a temporary file; a dry run reads what it would only have passed on.

        `measure` holds the threshold to an error, and finds it where it is `auto`.
        """
        self.wishes = wishes
        self.folder = folder
        self.dry_run = dry_run
        self.measure = measure
        self.only, self.without = canonical(wishes.only), canonical(wishes.without)
        self.outcome = Outcome()
        self.repaired: tuple[Repaired, ...] = ()
        self.zeroed: Zeroed | None = None
        self.reached: Reached | None = None
        self.ranks: RankStep | None = None
        self.nbytes = 0
        self.check_wishes()

    def check_wishes(self) -> None:
        """Raises UsageError for what cannot be meant."""
        wishes = self.wishes
        if wishes.threshold == "auto":
            self.zeroed = Zeroed(0.0, wishes.relative)  # found when the plan is there
        elif wishes.threshold is not None:
            check_threshold(wishes.threshold)
            self.zeroed = Zeroed(wishes.threshold, wishes.relative)
        elif wishes.relative:
            raise UsageError("--relative says what a threshold is a fraction of", "give --threshold too")
        if "ema" in self.only and wishes.ema != "keep":
            raise UsageError("--only ema, but the EMA is left out", "give --ema keep too")

    def __call__(self, plan: Plan) -> Plan:
        """Raises UsageError for what the file does not have, Refused when another model would come out."""
        self.nbytes = plan.nbytes
        plan, aliases = opened(plan)
        averaged = self.averaged(plan)
        # A file that held only averages shows what it is by the names that they got.
        before = identify(averaged if self.outcome.restored else plan)
        new = self.chosen(plan, averaged, before)
        if not new.tensors:
            raise Refused("nothing would be left of it", "inspect says what is in it; choose less to leave out")
        new = self.changed(new, before)
        self.check_same(before, new)
        return fitted(plan, closed(new, aliases, self.outcome))

    def averaged(self, plan: Plan) -> Plan:
        """With the weights, their average, or both."""
        kept = matching(self.wishes.keep, (tensor.name for tensor in plan.tensors))
        return apply_ema(plan, self.wishes.ema, kept, self.outcome, whole=not self.only)

    def chosen(self, source: Plan, plan: Plan, before: Identity) -> Plan:
        """Without a training state, and what was not asked for; `source` has the names of the file."""
        wishes = self.wishes
        tensors = (*source.tensors, *plan.tensors)
        check_present(tensors, before.kind, (*self.only, *self.without))
        # Names count as they stand in the file, and as the average has left them. Its own are gone when it is used:
        # a pattern for them must not hit the weights that they became.
        gone = {old for old, _ in self.outcome.exchanged}
        names = {tensor.name: None for tensor in tensors if tensor.name not in gone}
        check_matches((*wishes.keep, *wishes.drop), names)
        chosen = {"kept": matching(wishes.keep, names), "dropped": matching(wishes.drop, names)}
        selection = self.renamed(Selection(only=self.only, without=self.without, **chosen))
        training = {name: reason for name, reason in training_reasons(plan).items() if name not in selection.kept}
        if "training" in self.only:
            training = {}
        plan = leave_out(plan, training, "training state", self.outcome)
        return select(plan, before.kind, selection, self.outcome)

    def renamed(self, selection: Selection) -> Selection:
        """With the new names of tensors that were chosen by their old ones."""
        kept = {new for old, new in self.outcome.renamed if old in selection.kept}
        dropped = {new for old, new in self.outcome.renamed if old in selection.dropped}
        return replace(selection, kept=selection.kept | kept, dropped=selection.dropped | dropped)

    def changed(self, plan: Plan, before: Identity) -> Plan:
        """With the changes of values, ranks and names that were asked for."""
        wishes = self.wishes
        if wishes.repair_position_ids:
            plan, self.repaired = repair(plan)
        if self.zeroed is not None:
            refuse_quantised(quantised(plan))
            if self.measure is not None:
                self.zeroed.threshold, self.reached = self.measure(plan, partial(self.trial, before.kind))
            plan = self.thresholded(plan, before.kind, self.zeroed)
        if wishes.lowers_rank:
            self.ranks = RankStep(wishes.rank, wishes.rank_energy, wishes.to_lora, self.folder)
            plan = self.ranks(plan)
        # At last: the names of the whole file say best which part each tensor is.
        parts = {part_of(tensor.name, before.kind) for tensor in plan.tensors} - {"other"}
        if parts == set(self.only) and len(parts) == 1 and before.kind not in ADAPTERS:
            plan = stand_alone(plan, self.only[0], self.outcome)
        return plan

    def trial(self, kind: str, threshold: float) -> Step:
        """The step of another threshold, which counts nothing. An adapter of which nothing stays is empty."""

        def step(plan: Plan) -> Plan:
            try:
                return zeroed_plan(plan, kind, self.zeroed_by(threshold), self.folder)
            except Refused:
                if kind not in ADAPTERS or self.wishes.threshold != "auto":
                    raise
                return replace(plan, tensors=())

        return step

    def zeroed_by(self, threshold: float) -> Zeroed:
        """To be counted anew; what was read for the last one is not read again."""
        return Zeroed(threshold, self.wishes.relative, roots=self.zeroed.roots if self.zeroed else {})

    def thresholded(self, plan: Plan, kind: str, zeroed: Zeroed) -> Plan:
        new = zeroed_plan(plan, kind, zeroed, self.folder)
        if kind in ADAPTERS:
            zeroed.modules = len(modules(plan)) - len(modules(new))
        if len(new.tensors) < len(plan.tensors):
            count = len(plan.tensors) - len(new.tensors)
            self.outcome.count("modules without effect", count, plan.nbytes - new.nbytes)
        return new

    def check_same(self, before: Identity, new: Plan) -> None:
        """Raises Refused when what was planned is another model."""
        wishes = self.wishes
        after = identify(new)
        if wishes.to_lora and {before.kind, after.kind} <= ADAPTERS:
            # Turning LyCORIS into LoRA is what was asked for. Its parts hide which layers are convolutions, so the
            # base may show less than before; it must still be among what it may be.
            base = before.base if before.base in after.candidates else after.base
            after = replace(after, kind=before.kind, base=base)
        check_same(before, after, chosen=bool(self.only or self.without or wishes.keep or wishes.drop))

    # --- what is told ------------------------------------------------------------------------------------------

    def data(self, plan: Plan) -> Report:
        """The keys of the report that are prune's own."""
        outcome = self.outcome
        report: Report = {
            "renamed": [{"from": old, "to": new} for old, new in (*outcome.exchanged, *outcome.renamed)],
            "removed": {group: {"tensors": n, "bytes": nbytes} for group, (n, nbytes) in outcome.groups.items()},
            "bytes_before": self.nbytes,
            "bytes_after": plan.nbytes,
            "repaired": repaired_data(self.repaired),
        }
        if self.zeroed is not None:
            if self.dry_run:
                rehearse(plan.tensors, self.folder)
            report["zeroed"] = zeroed_data(self.zeroed)
            report["threshold"] = self.zeroed.threshold
        if self.reached is not None:
            report["max_error"] = self.reached.data
        return report | (self.ranks.data(plan) if self.ranks is not None else {})

    def lines(self, report: Report, verbose: bool) -> Iterator[str]:
        """The same for people."""
        for group, found in report["removed"].items():
            yield f"  without {escape(group)}: {plural(found['tensors'], 'tensor')}, {size(found['bytes'])}"
        if report["renamed"]:
            first = report["renamed"][0]
            count = plural(len(report["renamed"]), "tensor")
            yield f"  renamed: {count}, such as {escape(first['from'])} to {escape(first['to'])}"
        for item in self.repaired:
            off = f"positions {', '.join(map(str, item.off[:8]))} were off" if item.off else "all were right"
            yield f"  position ids of {escape(item.name)}: {item.dtype} to I64, {off}"
        if self.zeroed is not None:
            yield from zeroed_lines(report["zeroed"], self.zeroed, measured=self.reached is not None)
        if self.reached is not None:
            found = "the largest threshold found" if self.wishes.threshold == "auto" else "this threshold"
            yield f"    {found} {moved(report['max_error'])}"
        if self.ranks is not None:
            yield from rank_lines(report, verbose)
        before, now = report["bytes_before"], report["bytes_after"]
        if before == now and not report["dropped"]:
            yield "  nothing in it that inference does not need"
        elif before:
            yield f"  tensors: {size(before)} before, {size(now)} now ({now / before:.0%})"


def zeroed_plan(plan: Plan, kind: str, zeroed: Zeroed, folder: Path) -> Plan:
    """With values near zero made zero; of an adapter, without the modules whose whole update is near zero."""
    if kind in ADAPTERS:
        return remove_near_zero_modules(plan, zeroed.threshold, zeroed.relative)
    return near_zero(plan, kind, zeroed, folder)
