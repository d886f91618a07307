"""The tensors of a LoRA or LyCORIS file by module: what each is for, in every naming that trainers use."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from ckptool.tensor import Plan, Tensor

KOHYA, PEFT, DIFFUSERS = "kohya", "peft", "diffusers"

# What a tensor is for by the last parts of its name. What stands before them is the module.
ROLES: dict[str, str] = {
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid",
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_A": "down", "lora_B": "up", "lora_B.bias": "bias",
    "lora_embedding_A": "down", "lora_embedding_B": "up",
    "lora.down.weight": "down", "lora.up.weight": "up",
    "lora.alpha": "alpha", "lora_linear_layer.alpha": "alpha",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
    "lora_conv_layer.down.weight": "down", "lora_conv_layer.up.weight": "up",
    "alpha": "alpha", "dora_scale": "dora_scale",
    "lora_magnitude_vector": "dora_scale", "lora_magnitude_vector.weight": "dora_scale",
    "hada_w1_a": "hada_w1_a", "hada_w1_b": "hada_w1_b", "hada_w2_a": "hada_w2_a", "hada_w2_b": "hada_w2_b",
    "hada_t1": "hada_t1", "hada_t2": "hada_t2",
    "lokr_w1": "lokr_w1", "lokr_w1_a": "lokr_w1_a", "lokr_w1_b": "lokr_w1_b",
    "lokr_w2": "lokr_w2", "lokr_w2_a": "lokr_w2_a", "lokr_w2_b": "lokr_w2_b", "lokr_t2": "lokr_t2",
    "diff": "diff", "diff_b": "diff_b", "w_norm": "w_norm", "b_norm": "b_norm", "on_input": "on_input",
    "a1.weight": "a1", "a2.weight": "a2", "b1.weight": "b1", "b2.weight": "b2",
    "oft_blocks": "oft_blocks", "oft_diag": "oft_diag", "rescale": "rescale",
    "bias_indices": "bias_indices", "bias_values": "bias_values", "bias_size": "bias_size", "scalar": "scalar",
}  # fmt: skip

# Which roles make an algorithm, the first row that fits: any one of these sets, whole.
ALGORITHMS: tuple[tuple[str, tuple[frozenset[str], ...]], ...] = (
    ("lora", (frozenset({"down", "up"}),)),
    ("loha", (frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),)),
    ("lokr", tuple(
        frozenset({*one, *two})
        for one in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for two in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    )),
    ("glora", (frozenset({"a1", "a2", "b1", "b2"}),)),
    ("oft", (frozenset({"oft_blocks"}), frozenset({"oft_diag"}))),
    ("ia3", (frozenset({"weight", "on_input"}),)),
    ("full", (frozenset({"diff"}), frozenset({"diff_b"}))),
    ("norm", (frozenset({"w_norm"}), frozenset({"b_norm"}))),
)  # fmt: skip

RIDERS = frozenset({"alpha", "dora_scale", "bias", "diff_b", "bias_indices", "bias_values", "bias_size"})
"""Roles that go with any algorithm and say nothing about which it is."""
OWN: dict[str, frozenset[str]] = {
    "lora": frozenset({"mid"}),
    "loha": frozenset({"hada_t1", "hada_t2"}),
    "lokr": frozenset({"lokr_t2"}),
    "oft": frozenset({"rescale"}),
    "norm": frozenset({"w_norm", "b_norm"}),
}
"""Roles that an algorithm may have beside those that tell it."""


@dataclass(frozen=True, slots=True, eq=False)
class AdapterModule:
    """The tensors that change one layer of the base model, or a part of it."""

    name: str
    """The name of the layer, with the adapter in brackets where the file names one: `unet.….to_q[default]`."""
    layer: str
    """What the module changes, as the file spells it."""
    algorithm: str
    """lora, locon, dora, loha, lokr, full, norm, glora, oft, boft, ia3, or `unknown` where the parts fit none."""
    naming: str
    """kohya (LyCORIS uses it too), peft (lora_A and lora_B) or diffusers (its older names)."""
    parts: dict[str, Tensor]
    """Role to tensor; a tensor that repeats a role stands under its whole name, and the algorithm is unknown."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Rows, columns and kernel of the update; None where its parts do not say, or do not fit each other.

        LoHa and LoKr may keep the kernel inside the columns: the base model would have to say which is which.
        """
        return update_shape(self.parts)

    @property
    def rank(self) -> int | None:
        """What alpha is divided by: the inner dimension. None for an algorithm without one."""
        return inner_rank(self.parts)

    @property
    def alpha(self) -> float | None:
        """The value of alpha, None where there is none or it is no single number. Reads those few bytes."""
        return single(self.parts.get("alpha"))


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """All tensors of a file: those of its modules, by name, and the rest."""

    modules: dict[str, AdapterModule]
    rest: tuple[Tensor, ...]


def modules(plan: Plan) -> dict[str, AdapterModule]:
    """The modules of a LoRA or LyCORIS file by name; none in a file of another kind."""
    return group(plan.tensors).modules


def group(tensors: Iterable[Tensor]) -> Adapter:
    """Tensors by module, in the order of the file. Reads no values."""
    parts: dict[str, dict[str, Tensor]] = {}
    layers: dict[str, str] = {}
    naming: dict[str, str] = {}
    rest: list[Tensor] = []
    for tensor in tensors:
        found = place_of(tensor.name)
        if found is None:
            rest.append(tensor)
            continue
        layer, adapter, role, style = found
        name = f"{layer}[{adapter}]" if adapter else layer
        layers[name] = layer
        mine = parts.setdefault(name, {})
        mine[tensor.name if role in mine else role] = tensor
        if role in ("down", "up"):
            naming.setdefault(name, style)
    rest = scaled_inputs(parts, rest)
    made = {
        name: AdapterModule(name, layers[name], algorithm_of(own), naming.get(name, KOHYA), own)
        for name, own in parts.items()
    }
    lone = [name for name, module in made.items() if module.algorithm == "unknown" and set(module.parts) <= RIDERS]
    rest.extend(tensor for name in lone for tensor in made.pop(name).parts.values())
    return Adapter(made, tuple(rest))


def place_of(name: str) -> tuple[str, str, str, str] | None:
    """(layer, adapter or nothing, role, naming) of a tensor by its name, None of a name that says no role."""
    pieces = name.rsplit(".", 4)
    for count in (3, 2, 1):
        ending = ".".join(pieces[-count:])
        if len(pieces) > count and ending in ROLES:
            return ".".join(pieces[:-count]), "", ROLES[ending], style_of(ending)
    if len(pieces) > 2 and pieces[-1] == "weight":
        # unet.….attn1.processor.to_q_lora.up.weight, double_blocks.0.processor.proj_lora1.up.weight
        if pieces[-2] in ("up", "down") and pieces[-3].endswith(("_lora", "_lora1", "_lora2")):
            return ".".join(pieces[:-2]).removesuffix("_lora"), "", pieces[-2], DIFFUSERS
        # base_model.model.….lora_A.default.weight
        if len(pieces) > 3 and f"{pieces[-3]}.weight" in ROLES and pieces[-3].startswith("lora_"):
            return ".".join(pieces[:-3]), pieces[-2], ROLES[f"{pieces[-3]}.weight"], PEFT
    # ….hada_w1_a.default
    if len(pieces) > 2 and pieces[-2].startswith(("hada_", "lokr_", "lora_embedding_")) and pieces[-2] in ROLES:
        return ".".join(pieces[:-2]), pieces[-1], ROLES[pieces[-2]], PEFT
    return None


def style_of(ending: str) -> str:
    if ending.startswith(("lora_A", "lora_B", "lora_embedding_")):
        return PEFT
    return DIFFUSERS if ending.startswith(("lora.", "lora_linear_layer.", "lora_conv_layer.")) else KOHYA


def scaled_inputs(parts: dict[str, dict[str, Tensor]], rest: list[Tensor]) -> list[Tensor]:
    """IA3 keeps its values in plain `weight`, which only `on_input` beside it tells. What is left of `rest`."""
    left: list[Tensor] = []
    for tensor in rest:
        name, _, last = tensor.name.rpartition(".")
        if last == "weight" and "on_input" in parts.get(name, ()):
            parts[name]["weight"] = tensor
        else:
            left.append(tensor)
    return left


def algorithm_of(parts: dict[str, Tensor]) -> str:
    roles = set(parts)
    for algorithm, choices in ALGORITHMS:
        told = next((choice for choice in choices if choice <= roles), None)
        if told is None:
            continue
        if roles - told - RIDERS - OWN.get(algorithm, frozenset()):
            return "unknown"
        if algorithm == "lora":
            kernel = "mid" in roles or prod(parts["down"].shape[2:]) > 1
            return "dora" if "dora_scale" in roles else "locon" if kernel else "lora"
        # BOFT has one more dimension than OFT: the number of its factors.
        blocks = parts.get("oft_blocks") or parts.get("oft_diag")
        return "boft" if blocks is not None and len(blocks.shape) == 4 else algorithm
    return "unknown"


def update_shape(parts: dict[str, Tensor]) -> tuple[int, ...] | None:
    shapes = {role: tensor.shape for role, tensor in parts.items()}
    try:
        match shapes:
            case {"down": down, "up": up, "mid": mid}:
                fits = up[1] == mid[0] and mid[1] == down[0] and prod(up[2:]) * prod(down[2:]) == 1
                return (up[0], down[1], *mid[2:]) if fits else None
            case {"down": down, "up": up}:
                fits = up[1] == down[0] and prod(up[2:]) == 1
                return (up[0], down[1], *down[2:]) if fits else None
            case {"hada_w1_a": _, "hada_w1_b": _, "hada_w2_a": _, "hada_w2_b": _}:
                one = product(shapes["hada_w1_a"], shapes["hada_w1_b"], shapes.get("hada_t1"))
                two = product(shapes["hada_w2_a"], shapes["hada_w2_b"], shapes.get("hada_t2"))
                return one if one == two else None
            case {"lokr_w1": _} | {"lokr_w1_a": _}:
                return kron_shape(shapes)
            case {"diff": diff}:
                return diff if len(diff) > 1 else None
            case _:
                return None
    except (IndexError, KeyError):  # fewer dimensions or parts than the algorithm has
        return None


def kron_shape(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    one = shapes["lokr_w1"] if "lokr_w1" in shapes else product(shapes["lokr_w1_a"], shapes["lokr_w1_b"], None)
    tucker = shapes.get("lokr_t2")
    two = shapes["lokr_w2"] if "lokr_w2" in shapes else product(shapes["lokr_w2_a"], shapes["lokr_w2_b"], tucker)
    if one is None or two is None or len(one) != 2:
        return None
    return (one[0] * two[0], one[1] * two[1], *two[2:])


def product(a: tuple[int, ...], b: tuple[int, ...], tucker: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The shape of a·b; with a Tucker core [i, j, kernel] the factors are [i, rows] and [j, columns]."""
    if len(a) != 2 or len(b) != 2:
        return None
    if tucker is not None:
        return (a[1], b[1], *tucker[2:]) if (a[0], b[0]) == tucker[:2] else None
    return (a[0], b[1]) if a[1] == b[0] else None


def inner_rank(parts: dict[str, Tensor]) -> int | None:
    # LoKr with both halves whole has no rank, and loaders take 1 for its scale; of two ranks the second half's counts.
    for role in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if role in parts:
            return next(iter(parts[role].shape), None)
    return None


def single(tensor: Tensor | None) -> float | None:
    if tensor is None or prod(tensor.shape) != 1:
        return None
    from ckptool.convert.numbers import NUMPY, values

    if (tensor.dtype not in NUMPY and tensor.dtype != "BF16") or tensor.dtype == "C64":
        return None
    return float(values(tensor).reshape(()))
