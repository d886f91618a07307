"""Find the state dict in what a pickle holds, and give every tensor in it its flat name."""

from dataclasses import dataclass, field

from ckptool.convert.numpy_names import Array
from ckptool.convert.render import expression
from ckptool.convert.values import Dict, Module, Rebuilt, Unusable, Value
from ckptool.convert.walk import Bearers, tensors_in
from ckptool.errors import Malformed, OverBudget, Refused
from ckptool.tensor import Dropped
from ckptool.text import escape, plural

# Under these names a state dict sits in a larger object. The first one that holds tensors gives them its plain names.
WRAPPERS = (
    "state_dict", "model_state_dict", "params_ema", "params", "model", "module", "net", "adapter",
    "state_dict_ema", "ema",
)  # fmt: skip

# Beside a state dict, these are the state of a training run and not of a model.
TRAINING = frozenset(
    {
        "optimizer", "optimizers", "optimizer_states", "optimizer_state_dict", "optim", "optim_state", "opt",
        "lr_scheduler", "lr_schedulers", "lr_scheduler_state_dict", "scheduler", "schedulers", "scheduler_state_dict",
        "callbacks", "loops", "amp_scaling_state", "native_amp_scaling_state", "scaler", "grad_scaler", "rng_state",
        "rng_states", "random_states", "hyper_parameters", "hparams_name", "hparams_type", "MixedPrecisionPlugin",
    }
)  # fmt: skip

TENSORS = (Rebuilt, Unusable, Array)
COUNTERS = ("epoch", "global_step")
"""Lightning's counters, which become metadata."""
MAX_DEPTH = 64
MAX_TENSORS = 1_000_000
MAX_DROPPED = 10_000
MAX_NAMES = 16_000_000
"""Characters in all names; the header of the output has its own limit."""
BY_HAND = "load it with the program that wrote it and save a plain state dict"


@dataclass(slots=True, eq=False)
class Flat:
    """Named tensors, what is left out with its reason, and plain values for the metadata."""

    tensors: dict[str, Rebuilt] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    containers: list[Value] = field(default_factory=list)
    """Containers whose content the tensors' names depend on."""
    characters: int = 0


def flatten(root: Value) -> Flat:
    """The state dict in `root`. Raises Refused when a tensor depends on something unknown, or there is none."""
    flat = Flat()
    bearers = Bearers(root)
    if type(root) in TENSORS:
        root = Dict([("tensor", root)])
        bearers = Bearers(root)
    if root not in bearers:
        raise Refused(
            "it holds no tensors",
            "if it is a checkpoint, its tensors are made by something that is not known: run scan",
        )
    if type(root) is not Dict:
        add(flat, bearers, "", root, 0)
        return flat
    flat.containers.append(root)
    wrapper = find_wrapper(root, bearers)
    for key, value in last_values(root):
        if wrapper is not None and type(key) is str and key == wrapper:
            add(flat, bearers, "", value, 1)
        else:
            add_beside(flat, bearers, key, value, wrapper is not None)
    if not flat.tensors:
        raise Refused("it holds no tensors but those of a training state", BY_HAND)
    return flat


def find_wrapper(root: Dict, bearers: Bearers) -> str | None:
    """The name under which the state dict sits, None when `root` is itself the state dict."""
    held = {key for key, value in root.pairs if type(key) is str and value in bearers and type(value) not in TENSORS}
    return next((name for name in WRAPPERS if name in held), None)


def last_values(mapping: Dict) -> list[tuple[Value, Value]]:
    """Entries as a dict keeps them: for a text that stands twice, the first place and the last value."""
    place: dict[str, int] = {}
    entries: list[tuple[Value, Value]] = []
    for key, value in mapping.pairs:
        if type(key) is str and key in place:
            entries[place[key]] = (key, value)
            continue
        if type(key) is str:
            place[key] = len(entries)
        entries.append((key, value))
    return entries


def add_beside(flat: Flat, bearers: Bearers, key: Value, value: Value, wrapped: bool) -> None:
    """An entry of the outermost dict that is not the state dict itself."""
    if type(key) is str and key in TRAINING:
        count = plural(tensors_in(value), "tensor")
        flat.dropped.append(Dropped(key, f"training state ({count})" if value in bearers else "training state"))
    elif type(key) is str and type(value) in (str, int, float) and (not wrapped or key in COUNTERS):
        flat.characters += len(key) + len(str(value))
        if flat.characters > MAX_NAMES:
            raise OverBudget(f"more than {MAX_NAMES:,} characters of names and metadata", "do not trust the file")
        if is_utf8(key + str(value)):
            flat.metadata[key] = str(value)
        else:
            flat.dropped.append(Dropped(show(key), "a text that is not Unicode"))
    elif wrapped and type(value) not in (Dict, *TENSORS):
        held = f", with {plural(tensors_in(value), 'tensor')} in it" if value in bearers else ""
        flat.dropped.append(Dropped(show(key), f"beside the state dict, and none itself{held}: {expression(value)}"))
    else:
        add(flat, bearers, *named(key, value, "", bearers), 1)


def named(key: Value, value: Value, prefix: str, bearers: Bearers) -> tuple[str, Value]:
    """The full name of an entry. Raises when a tensor's name would depend on something that is no text."""
    if type(key) is int:
        key = str(key)
    if type(key) is not str:
        if value in bearers:
            raise Refused(f"tensors stand under a key that is no text: {expression(key)} in {show(prefix)!r}", BY_HAND)
        key = expression(key)
    return (f"{prefix}.{key}" if prefix else key), value


def add(flat: Flat, bearers: Bearers, name: str, value: Value, depth: int) -> None:
    """Put a value and all tensors below it under their flat names."""
    if depth > MAX_DEPTH:
        raise OverBudget(f"{show(name)}: nested more than {MAX_DEPTH} deep", "no checkpoint is: do not trust the file")
    kind = type(value)
    if kind is Array:
        add(flat, bearers, name, value.value, depth)
    elif kind is Rebuilt:
        put(flat, name, value)
    elif kind is Unusable:
        raise Refused(f"tensor {show(name)}: {value.reason}", value.hint)
    elif value not in bearers:
        drop(flat, name, value)
    elif kind is Dict:
        flat.containers.append(value)
        for key, part in last_values(value):
            add(flat, bearers, *named(key, part, name, bearers), depth + 1)
    elif kind is list or kind is tuple:
        flat.containers.append(value)
        for index, part in enumerate(value):
            add(flat, bearers, *named(index, part, name, bearers), depth + 1)
    elif kind is Module:
        add_module(flat, bearers, name, value, depth)
    else:
        raise Refused(
            f"{show(name) or 'the state dict'}: its tensors depend on {expression(value)}, which is not known", BY_HAND
        )


def add_module(flat: Flat, bearers: Bearers, name: str, module: Module, depth: int) -> None:
    """An nn.Module keeps its tensors in three dicts of its state; a TorchScript object as plain attributes."""
    if type(module.state) is not Dict:
        raise Refused(f"{show(name)}: a {module.kind} without a state that is known", BY_HAND)
    for key, part in last_values(module.state):
        inner = type(key) is str and key in ("_parameters", "_buffers", "_modules")
        if inner and type(part) is Dict:
            add(flat, bearers, name, part, depth + 1)
        elif module.kind == "script" and part in bearers:
            add(flat, bearers, *named(key, part, name, bearers), depth + 1)
        elif part in bearers:
            flat.dropped.append(
                Dropped(show(named(key, part, name, bearers)[0]), f"a plain attribute of a {module.kind}")
            )


def put(flat: Flat, name: str, tensor: Rebuilt) -> None:
    flat.characters += len(name)
    if name in flat.tensors:
        raise Malformed(f"two tensors would be named {show(name)}", BY_HAND)
    if len(flat.tensors) >= MAX_TENSORS or flat.characters > MAX_NAMES:
        raise OverBudget(
            f"more than {MAX_TENSORS:,} tensors or {MAX_NAMES:,} characters of names", "do not trust the file"
        )
    if name == "__metadata__" or not is_utf8(name):
        raise Refused(f"a tensor cannot be named {show(name)} in safetensors", BY_HAND)
    flat.tensors[name] = tensor


def drop(flat: Flat, name: str, value: Value) -> None:
    if len(flat.dropped) >= MAX_DROPPED:
        raise OverBudget(f"more than {MAX_DROPPED:,} values that are no tensors", BY_HAND)
    if type(value) in (Dict, list, tuple, Module):
        what = "holds no tensors"
    elif value is None or type(value) in (bool, int, float, str):
        what = f"a plain value, not a tensor: {expression(value)}"
    else:
        what = f"not a tensor: {expression(value)}"
    flat.dropped.append(Dropped(show(name), what))


def is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def show(name: Value) -> str:
    return escape(name, 120) if type(name) is str else expression(name)
