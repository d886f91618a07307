"""One module of an adapter: its rank lowered, or another algorithm turned into plain LoRA."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

from ckptool.identify.adapters import AdapterModule
from ckptool.prune.effort import Effort
from ckptool.prune.rank_choice import Choice, exact
from ckptool.prune.rank_factors import Factors, Frame, factors, widest
from ckptool.prune.rank_metadata import Now
from ckptool.prune.rank_names import full_shape
from ckptool.prune.rank_peft import Settings, scale
from ckptool.prune.rank_spool import Spool
from ckptool.prune.rank_update import FLOATS, Reader, scale_of
from ckptool.prune.svd import Svd, Unfit, decompose, shape_of
from ckptool.tensor import Dropped, Inline, Tensor


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a module that has a rank."""

    before: int
    after: int
    energy: float = 1.0
    """Share of the squared singular values that is left."""
    error: float = 0.0
    """Frobenius norm of what is lost, rounding included, relative to that of the update."""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A module that is changed: its new tensors, each in the place of an old one where its name was there before."""

    outcome: Outcome
    tensors: tuple[Tensor, ...]
    dropped: tuple[Dropped, ...]
    now: Now


@dataclass(frozen=True, slots=True, eq=False)
class Reducer:
    """What the modules of a file have in common."""

    choice: Choice
    spool: Spool
    reader: Reader
    settings: Settings | None
    sd1: bool
    """Its base model is SD1, as far as the file tells."""
    taken: frozenset[str]
    """Every name in the file."""
    effort: Effort

    def lower(self, module: AdapterModule) -> Change | Outcome:
        """A plain LoRA at a lower rank, or what it has when it stays. Raises Unfit when it has to stay."""
        rank = module.rank
        if not rank or module.shape is None:
            raise Unfit("the shapes of its parts do not fit each other")
        within = isinstance(self.choice.rank, int) and rank <= self.choice.rank and self.choice.energy is None
        if within or not self.choice.asks:
            return Outcome(rank, rank)
        up, down, alpha = module.parts["up"], module.parts["down"], module.parts.get("alpha")
        ratio = scale_of(module, 1.0 if alpha else scale(self.settings, module.layer))
        svd, _, after = self.solve(module)
        if after >= rank:
            return Outcome(rank, rank)
        made = factors(svd, after, ratio if alpha else 1.0, ratio * after, frame_of(up, down, alpha))
        rows, *inputs = module.shape
        new = [
            replace(up, shape=(rows, after, *up.shape[2:])),
            replace(down, shape=(after, *inputs)),
        ]
        dropped = []
        if "mid" in module.parts:
            self.refuse_growth((up, down, module.parts["mid"]), new)
            dropped.append(Dropped(module.parts["mid"].name, "folded into the down weight, where the rank is lowered"))
        tensors = self.stored([*new, *([alpha] if alpha else [])], made)
        return changed(module, tensors, dropped, Outcome(rank, after, made.energy, made.error), made)

    def turn(self, module: AdapterModule) -> Change:
        """LoHa, LoKr or a full difference as plain LoRA, in kohya's names. Raises Unfit when it has to stay."""
        ratio = scale_of(module)
        svd, before, after = self.solve(module)
        core = [
            tensor for role, tensor in module.parts.items() if role.startswith(("hada_", "lokr_")) or role == "diff"
        ]
        old = module.parts.get("alpha")
        up, down, name = (f"{module.layer}.{ending}" for ending in ("lora_up.weight", "lora_down.weight", "alpha"))
        if {up, down} & self.taken or (old is None and name in self.taken):
            raise Unfit("the names of a plain LoRA are taken")
        dtype = widest(core)
        alpha = old if old and old.dtype in FLOATS else Tensor(old.name if old else name, dtype, (), Inline(b""))
        rows, *inputs = full_shape(module, self.sd1)
        new = [
            Tensor(up, dtype, (rows, after, *(1 for _ in inputs[1:])), Inline(b"")),
            Tensor(down, dtype, (after, *inputs), Inline(b"")),
            alpha,
        ]
        made = factors(svd, after, ratio, float(after), frame_of(*new))
        dropped = [Dropped(tensor.name, f"{module.algorithm} turned into plain LoRA") for tensor in core]
        outcome = Outcome(before, after, made.energy, made.error)
        return changed(module, self.stored(new, made), dropped, outcome, made)

    def solve(self, module: AdapterModule) -> tuple[Svd, int, int]:
        """The SVD of a module's update without its scale, its exact rank, and the rank chosen."""
        update = self.reader.update(module)
        rows, columns = shape_of(update)
        self.effort.spend_on(update)
        svd = decompose(update)
        return svd, max(exact(svd.values, rows, columns), 1), self.choice.of(svd.values, rows, columns)

    def refuse_growth(self, old: Iterable[Tensor], new: Iterable[Tensor]) -> None:
        """A Tucker core makes a module small: where only the file's own numbers chose the rank, it must not grow."""
        if not isinstance(self.choice.rank, int) and total(new) > total(old):
            raise Unfit("without its Tucker core it would be larger")

    def stored(self, tensors: list[Tensor], made: Factors) -> tuple[Tensor, ...]:
        """The tensors up, down and alpha (where there is one) with the bytes that were made for them."""
        codes = (made.up, made.down, made.alpha)
        return tuple(replace(tensor, data=self.spool.add(code)) for tensor, code in zip(tensors, codes, strict=False))


def frame_of(up: Tensor, down: Tensor, alpha: Tensor | None) -> Frame:
    return Frame(up.dtype, down.dtype, alpha.dtype if alpha else None)


def total(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def changed(
    module: AdapterModule, tensors: tuple[Tensor, ...], dropped: list[Dropped], outcome: Outcome, made: Factors
) -> Change:
    kernel = prod(tensors[1].shape[2:]) > 1
    now = Now(module.layer, outcome.after, made.alpha_value, kernel)
    return Change(outcome, tensors, tuple(dropped), now)
