"""What is added to a model and is no adapter of its layers: embeddings, hypernetworks, T2I- and IP-Adapters."""

import re
from collections.abc import Iterable

from ckptool.identify.families import UNET_BASES, title
from ckptool.identify.identity import AMBIGUOUS
from ckptool.identify.names import Names, shown
from ckptool.identify.rules import Rule, has_all, has_any
from ckptool.identify.signs import RATIO, STRUCTURE, WIDTH, Decision, Sign, decide
from ckptool.tensor import Tensor

CONTEXTS: dict[int, str] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the text -> base. 1280, the refiner's, is also that of SDXL's second encoder."""

# --- textual inversion ---------------------------------------------------------------------------------------

EMBEDDED = "string_to_param."
MAX_TENSORS = 1 << 12
MOST_VECTORS = 1000
"""In a tensor whose name does not say that it is an embedding."""
SEVERAL: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"clip_l", "clip_g", "t5xxl"}), "sd3"),
    (frozenset({"clip_l", "t5xxl"}), "flux"),
    (frozenset({"clip_l", "clip_g"}), "sdxl"),
    (frozenset({"text_encoders_0", "text_encoders_1"}), "sdxl"),
)


def textual_inversion(names: Names) -> Decision | None:
    """An embedding by its names, or a single tensor that has the shape of one."""
    tensors = names.tensors
    if not all(len(t.shape) in (1, 2) for t in tensors.values()) or not 0 < len(tensors) <= MAX_TENSORS:
        return None
    for several, base in SEVERAL:
        if set(tensors) == several:
            shapes = ", ".join(shown(tensors[name]) for name in sorted(several))
            return Decision(base, (), (f"{shapes}: vectors for each text encoder of {title(base)}",))
    vectors = [t for name, t in tensors.items() if name.startswith(EMBEDDED) or name == "emb_params"]
    if vectors:
        return embedded(vectors[0])
    tokens = all(name.startswith("<") and name.endswith(">") for name in tensors)
    if tokens or (len(tensors) == 1 and is_vectors(*tensors.items())):
        return embedded(next(iter(tensors.values())))
    return None


def is_vectors(item: tuple[str, Tensor]) -> bool:
    """Whether a tensor under a token that is written as any word may be an embedding."""
    name, tensor = item
    few = len(tensor.shape) == 1 or tensor.shape[0] <= MOST_VECTORS
    return few and tensor.shape[-1] in CONTEXTS and not name.endswith((".weight", ".bias"))


def embedded(tensor: Tensor) -> Decision:
    """Vectors for one text encoder, by their width."""
    width = tensor.shape[-1]
    base = CONTEXTS.get(width)
    if base == "sd1" or base == "sd2":
        return Decision(base, (), (f"{shown(tensor)}: vectors {width} wide, {title(base)}",))
    # CLIP-L, OpenCLIP-H: nothing but their widths tells vectors apart.
    why = f"{shown(tensor)}: vectors {width} wide, as no text encoder that is used alone"
    return Decision(AMBIGUOUS, ("sd1", "sd2"), (why,))


# --- hypernetwork --------------------------------------------------------------------------------------------

HYPER = re.compile(r"(\d{1,5})\.[01]\.linear\.\d{1,3}\.(?:weight|bias|running_mean|running_var|num_batches_tracked)")


def hypernetwork(names: Names) -> Decision | None:
    """Pairs of small networks, each named by the width of what it changes: the width of the text tells the base."""
    tensors = {n: t for n, t in names.tensors.items() if not n.startswith("optimizer")}
    widths: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        found = HYPER.fullmatch(name) if len(name) < 80 else None
        if found is None:
            return None
        widths.setdefault(int(found[1]), tensor)
    if not widths:
        return None
    told = [width for width in widths if width in CONTEXTS]
    evidence = tuple(f"{shown(widths[w])}: a network for {w} values, the text of {title(CONTEXTS[w])}" for w in told)
    if len(told) == 1:
        return Decision(CONTEXTS[told[0]], (), evidence)
    if told:
        problem = ("networks for texts of different widths: " + ", ".join(map(str, sorted(told))),)
        return Decision(AMBIGUOUS, tuple(CONTEXTS[w] for w in sorted(told)), evidence, problem)
    first = shown(next(iter(widths.values())))
    return Decision(AMBIGUOUS, ("sd1", "sd2"), (f"{first}: no network for the text, so nothing tells the base",))


# --- T2I-Adapter ---------------------------------------------------------------------------------------------

T2I: Rule = has_any(
    "body.0.in_conv.weight",
    has_all("conv_in.weight", "body.0.block2.weight"),
    has_all("conv_in.weight", "body.0.resnets.0.block1.weight"),
)
# Inputs of the first convolution: pictures with 1 or 3 channels, folded 8 × 8 for SD1 and 16 × 16 for SDXL.
T2I_INPUTS: dict[int, str] = {64: "sd1", 192: "sd1", 256: "sdxl", 768: "sdxl"}
T2I_CHANNELS = 320
T2I_LIGHT = 80
"""Outputs of the first convolution, in the light adapters a quarter."""


def t2i_adapter(names: Names) -> Decision | None:
    inner = names.under("adapter.") if names.has("adapter.") else names
    if not T2I(inner):
        return None
    conv = inner.tensors.get("conv_in.weight") or inner.tensors.get("body.0.in_conv.weight")
    if conv is None or len(conv.shape) != 4:
        return Decision(None, (), ("body.0.…: a T2I-Adapter without its first convolution",))
    outputs, inputs = conv.shape[:2]
    channels = T2I_CHANNELS if inner.has("conv_in.weight") else T2I_LIGHT
    scaled = frozenset(base for size, base in T2I_INPUTS.items() if outputs and inputs * channels == outputs * size)
    signs = [Sign(RATIO, scaled, f"{shown(conv)}: {inputs} inputs for {outputs} outputs, as of {words(scaled)}")]
    if inputs in T2I_INPUTS:
        base = T2I_INPUTS[inputs]
        folded = 16 if base == "sdxl" else 8
        signs.append(
            Sign(WIDTH, frozenset({base}), f"{shown(conv)}: pictures folded {folded} × {folded}, {title(base)}")
        )
    decision = decide(signs if not scaled else signs[:1], UNET_BASES)
    return decision if decision.base else Decision(AMBIGUOUS, ("sd1", "sdxl"), (f"{shown(conv)}: as of none known",))


# --- IP-Adapter ----------------------------------------------------------------------------------------------

IP_KEYS = ("ip_adapter.1.to_k_ip.weight", "ip_adapter.0.to_k_ip.weight")
IP_LAST = 31
"""Number of the last cross attention of SD1 and SD2, both halves of each transformer block counted; SDXL goes on."""


def ip_adapter(names: Names) -> Decision | None:
    key = next((names.tensors[name] for name in IP_KEYS if name in names.tensors), None)
    if key is None:
        return None
    signs = []
    width = key.shape[-1] if len(key.shape) == 2 else 0
    if width in CONTEXTS:
        says = frozenset({CONTEXTS[width]})
        signs.append(Sign(WIDTH, says, f"{shown(key)}: context {width}, {words(says)}"))
    last = max(numbers(names), default=0)
    says = frozenset({"sd1", "sd2"} if last <= IP_LAST else {"sdxl"})
    signs.append(Sign(STRUCTURE, says, f"ip_adapter.{last}: the last cross attention, as in {words(says)}"))
    first = names.shape("ip_adapter.1.to_k_ip.weight")
    if len(first) == 2:
        # Beside the first cross attention, 320 wide in SD1 and SD2 and 640 in SDXL.
        published = {"sd1": (320, 768), "sd2": (320, 1024), "sdxl": (640, 2048)}
        says = frozenset(base for base, (rows, columns) in published.items() if first[0] * columns == first[1] * rows)
        if first[0]:
            signs.append(Sign(RATIO, says, f"{shown(key)}: context to block as in {words(says)}"))
    return decide(signs, UNET_BASES)


def numbers(names: Names) -> Iterable[int]:
    for name in names.tensors:
        if name.startswith("ip_adapter."):
            number = name.split(".", 2)[1]
            if number.isascii() and number.isdigit() and len(number) < 5:
                yield int(number)


def words(bases: Iterable[str]) -> str:
    return " or ".join(title(base) for base in UNET_BASES if base in set(bases))
