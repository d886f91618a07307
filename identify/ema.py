"""Find the exponential moving average of the weights that training keeps beside them, in every layout.

Source of the dotless one: CompVis/stable-diffusion, ldm/modules/ema.py (`LitEma`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ckptool.errors import CkptoolError
from ckptool.identify.components import FIRST
from ckptool.identify.ldm_unet import restored
from ckptool.identify.sample import numbers_of
from ckptool.tensor import Plan, Tensor

# Where `model_ema.` may stand: at the top, behind a wrapper, or inside an autoencoder that was trained by itself.
ROOTS = ("", "module.", "_orig_mod.", "net.", "model.", "first_stage_model.")
LITEMA = "model_ema."
# torch's own AveragedModel and data parallel training put this in front of the names of one side.
WRAPPED = "module."
# Other beginnings, each with what the weights may begin with that it averages; the reader makes most of them.
DOTTED: dict[str, tuple[str, ...]] = {
    "state_dict_ema.": ("", "module.", "state_dict."),
    "model_state_dict_ema.": ("", "module.", "model_state_dict."),
    "ema_state_dict.": ("", "module."),
    "model_ema_state_dict.": ("", "module."),
    "params_ema.": ("params.", ""),
    "ema.ema_model.": ("", "model.", "ema.online_model."),
    "ema_model.": ("online_model.", "model.", "", "module."),
    "ema.": ("", "model.", "module."),
    "unet_ema.": ("unet.",),
    "transformer_ema.": ("transformer.",),
}  # fmt: skip
# Of `params` beside `params_ema` the reader gives the average the plain names, since loaders prefer it.
PREFERRED = "params."
# ema-pytorch keeps a copy of the weights and its settings beside the average.
KEEPER = "ema."
# Names that mean an average even where no weights stand beside it.
ALONE = frozenset(DOTTED) - {"ema.", "ema_model.", "ema.ema_model."}
LITEMA_COUNTERS = ("decay", "num_updates", "n_averaged")
COUNTERS = (*LITEMA_COUNTERS, "step", "initted", "optimization_step", "updates", "cur_decay_value", "min_decay")
UPDATES = ("num_updates", "n_averaged", "step", "optimization_step", "updates")
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "position_ids")
"""Not averaged, as are integers."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True, eq=False)
class Ema:
    """An average of the weights, and how it maps onto them."""

    layout: str
    """What its names begin with, `params_ema` among them."""
    twins: dict[str, Tensor]
    """Name of a weight -> its average. Where a file holds nothing but the average, the weight is not in the plan."""
    counters: tuple[Tensor, ...]
    """decay, num_updates and whatever else stands beside an average."""
    missing: tuple[str, ...]
    """Trainable weights without an average."""
    unmatched: tuple[str, ...]
    """Averages without a weight."""
    collisions: tuple[str, ...]
    """Weights or averages whose names without dots are the same."""
    updates: int | None
    """How often it was updated, as the file says; 0 means never, -1 that nobody counted."""
    raw_prefix: str = ""
    """What the weights' names begin with where the average has the plain ones."""

    @property
    def complete(self) -> bool:
        return bool(self.twins) and not (self.missing or self.unmatched or self.collisions)

    @property
    def names(self) -> frozenset[str]:
        """Every tensor that belongs to it."""
        tensors = (*self.twins.values(), *self.counters)
        return frozenset(tensor.name for tensor in tensors) | frozenset(self.unmatched)


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The twins of one layout."""

    twins: dict[str, Tensor]
    missing: tuple[str, ...]
    unmatched: tuple[str, ...]
    collisions: tuple[str, ...] = ()


def find_ema(plan: Plan) -> Ema | None:
    """The average in a plan, None when there is none. Reads no more than a counter."""
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    found = [ema for root in ROOTS if (ema := find_litema(tensors, root))]
    found += [ema for prefix in DOTTED if (ema := find_dotted(tensors, prefix, found))]
    if not found and (ema := find_preferred(tensors)):
        found = [ema]
    if not found:
        return None
    return found[0] if len(found) == 1 else joined(found)


def joined(found: list[Ema]) -> Ema:
    """Averages of several components as one. Of two averages of the same weight neither is the right one."""
    twins: dict[str, Tensor] = {}
    twice: list[str] = []
    for ema in found:
        twice += [tensor.name for name, tensor in ema.twins.items() if name in twins]
        twins = ema.twins | twins
    updates = [ema.updates for ema in found if ema.updates is not None]
    return Ema(
        ", ".join(ema.layout for ema in found),
        twins,
        tuple(counter for ema in found for counter in ema.counters),
        tuple(name for ema in found for name in ema.missing),
        (*(name for ema in found for name in ema.unmatched), *twice),
        tuple(name for ema in found for name in ema.collisions),
        0 if 0 in updates else next(iter(updates), None),
    )


def found_as(layout: str, match: Match, counters: tuple[Tensor, ...], raw_prefix: str = "") -> Ema:
    updates = [count for counter in counters if is_updates(counter.name) and (count := integer(counter)) is not None]
    return Ema(
        layout, match.twins, counters, match.missing, match.unmatched, match.collisions,
        updates[0] if updates else None, raw_prefix,
    )  # fmt: skip


# --- LitEma: names without dots --------------------------------------------------------------------------------


def find_litema(tensors: dict[str, Tensor], root: str) -> Ema | None:
    """`model_ema.` below a root: averages of `model.`, or of everything in an autoencoder."""
    prefix = root + LITEMA
    averages = [tensor for name, tensor in tensors.items() if name.startswith(prefix)]
    if not averages:
        return None
    counters = tuple(t for t in averages if t.name[len(prefix) :] in LITEMA_COUNTERS)
    averages = [t for t in averages if t not in counters]
    for inner, scope in ((prefix, root + "model."), (prefix, root), (prefix, root + WRAPPED), (prefix + WRAPPED, root)):
        match = litema_match(tensors, averages, inner, scope)
        if match.twins or match.collisions:
            break
    else:
        match = alone(tensors, averages, prefix, root + "model.")
    return found_as(prefix.removesuffix("."), match, counters)


def litema_match(tensors: dict[str, Tensor], averages: list[Tensor], prefix: str, scope: str) -> Match:
    """Map forward from the weights, and hold the mapping to be one to one."""
    outer = prefix.removesuffix(WRAPPED)
    names = [name for name in tensors if name.startswith(scope) and not name.startswith(outer)]
    weights, twice = by_dotless(names, scope)
    by_name, twice_averaged = by_dotless((t.name for t in averages if t.name.startswith(prefix)), prefix)
    pairs = {weights[key]: tensors[by_name[key]] for key in weights.keys() & by_name.keys()}
    # In the order of the weights, so that the same file gives the same report.
    twins = {name: pairs[name] for name in names if name in pairs}
    if not twins and not (twice and by_name.keys() & {dotless(name, scope) for name in twice}):
        return Match({}, (), tuple(t.name for t in averages))
    used = {tensor.name for tensor in twins.values()}
    missing = tuple(missing_in(tensors, names, twins, scope))
    return Match(twins, missing, tuple(t.name for t in averages if t.name not in used), (*twice, *twice_averaged))


def dotless(name: str, scope: str) -> str:
    return name[len(scope) :].replace(".", "")


def by_dotless(names: Iterable[str], scope: str) -> tuple[dict[str, str], list[str]]:
    """Dotless -> full name, and the names that share theirs with another."""
    first: dict[str, str] = {}
    twice: dict[str, None] = {}
    for name in names:
        key = dotless(name, scope)
        if key in first:
            twice |= {first[key]: None, name: None}
        first.setdefault(key, name)
    lost = {dotless(name, scope) for name in twice}
    return {key: name for key, name in first.items() if key not in lost}, list(twice)


def alone(tensors: dict[str, Tensor], averages: list[Tensor], prefix: str, scope: str) -> Match:
    """A file that holds only averages: the dots come from the list of the UNet's names."""
    by_name, twice = by_dotless((t.name for t in averages), prefix)
    table = restored(by_name)
    twins = {scope + table[key]: tensors[name] for key, name in by_name.items() if key in table}
    names = [name for name in tensors if name.startswith(scope) and not name.startswith(prefix)]
    others = missing_in(tensors, names, twins, scope)
    missing = (*(scope + name for key, name in table.items() if key not in by_name), *others)
    used = {tensor.name for tensor in twins.values()}
    return Match(twins, missing, tuple(t.name for t in averages if t.name not in used), tuple(twice))


# --- names with their dots -------------------------------------------------------------------------------------


def find_dotted(tensors: dict[str, Tensor], prefix: str, found: list[Ema]) -> Ema | None:
    """Averages under the weights' own names behind a prefix."""
    taken = {name for ema in found for name in ema.names}
    under = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix) and name not in taken}
    scopes = DOTTED[prefix]
    kept = tuple(t for name, t in under.items() if name[len(prefix) :] in COUNTERS and t.nbytes <= 8)
    averages = {name[len(prefix) :]: t for name, t in under.items() if t not in kept}
    if not averages:
        return None
    if all(name.startswith(WRAPPED) for name in averages) and not any(name in tensors for name in averages):
        averages = {name.removeprefix(WRAPPED): tensor for name, tensor in averages.items()}
    shared = {scope: sum(scope + name in tensors for name in averages) for scope in scopes}
    scope = max(scopes, key=lambda scope: shared[scope])
    if not shared[scope]:
        if prefix not in ALONE:
            return None
        match = Match({scopes[0] + name: tensor for name, tensor in averages.items()}, (), ())
        return found_as(prefix.removesuffix("."), match, kept)
    twins = {scope + name: tensor for name, tensor in averages.items() if scope + name in tensors}
    unmatched = tuple(t.name for name, t in averages.items() if scope + name not in tensors)
    names = [name for name in tensors if name.startswith(scope) and name not in under and name not in taken]
    match = Match(twins, tuple(missing_in(tensors, names, twins, scope)), unmatched)
    if prefix == "ema.ema_model." and not scope.startswith(KEEPER):
        kept = tuple(t for name, t in tensors.items() if name.startswith(KEEPER) and name not in under)
    return found_as(prefix.removesuffix("."), match, kept)


def find_preferred(tensors: dict[str, Tensor]) -> Ema | None:
    """`params_ema` under the plain names, and the weights behind `params.`."""
    raw = {name[len(PREFERRED) :]: name for name in tensors if name.startswith(PREFERRED)}
    twins = {full: tensors[name] for name, full in raw.items() if name in tensors}
    if not twins:
        return None
    missing = tuple(full for name, full in raw.items() if name not in tensors and trainable(tensors[full]))
    return found_as("params_ema", Match(twins, missing, ()), (), PREFERRED)


# --- what should have an average -------------------------------------------------------------------------------


def missing_in(tensors: dict[str, Tensor], names: Iterable[str], twins: dict[str, Tensor], scope: str) -> Iterator[str]:
    """Trainable weights among `names` without a twin.

    A component that is not averaged at all (a VAE beside a UNet) is not missing: it is no part of a mixture.
    """
    covered = {name[len(scope) :].partition(".")[0] for name in twins}
    for name in names:
        first = name[len(scope) :].partition(".")[0]
        component = FIRST.get(first)
        if name in twins or not trainable(tensors[name]) or component in ("other", "training", "ema"):
            continue
        if component is None or first in covered:
            yield name


def trainable(tensor: Tensor) -> bool:
    return tensor.dtype in FLOATS and tensor.nbytes > 0 and tensor.name.rpartition(".")[2] not in BUFFERS


# --- counters --------------------------------------------------------------------------------------------------


def is_updates(name: str) -> bool:
    return name.rpartition(".")[2] in UPDATES


def integer(counter: Tensor) -> int | None:
    """The one value of a counter, None when it has none that means anything."""
    if counter.nbytes == 0 or counter.nbytes > 8:
        return None
    try:
        found = numbers_of(counter, 1)
        return int(found[0]) if found else None
    except (CkptoolError, ValueError, OverflowError):
        return None
