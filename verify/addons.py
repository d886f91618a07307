"""Addons on a base model: what a LoRA, an embedding or a hypernetwork makes of its layers, as they run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptool.identify.adapters import AdapterModule, modules
from ckptool.identify.compat import underscored
from ckptool.identify.compat_modules import address
from ckptool.identify.compat_parts import FOR_ENCODER
from ckptool.identify.naming import ldm_names
from ckptool.prune.rank_update import Reader, scale_of
from ckptool.prune.svd import Dense, Factored, Kron, Unfit, Update, check_size
from ckptool.tensor import Plan, Tensor
from ckptool.verify.configs import Unknown
from ckptool.verify.ldm_extra import Weight, Weights
from ckptool.verify.networks import canonical

if TYPE_CHECKING:
    import torch

Change = Callable[["torch.Tensor"], None]


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """Components of a base with an adapter's changes, and the modules that change none of them."""

    weights: dict[str, Weights]
    left_out: tuple[tuple[str, str], ...]
    """Module and reason."""


def adapted_components(plan: Plan) -> tuple[str, ...]:
    """The components that the modules of an adapter change, each once."""
    return tuple(dict.fromkeys(address(module.layer)[0] for module in modules(plan).values()))


def apply(plan: Plan, base: dict[str, Weights]) -> Applied:
    """The base with a LoRA or LyCORIS on it. Reads nothing yet: each layer is changed when it runs."""
    layers = {component: layer_keys(component, weights) for component, weights in base.items()}
    changed = {component: dict(weights) for component, weights in base.items()}
    left_out: list[tuple[str, str]] = []
    reader = Reader()
    for name, module in modules(plan).items():
        component, key = address(module.layer)
        known = layers.get(component, {})
        layer = known.get(key) or known.get(f"{key}_0")
        if layer is None:
            left_out.append((name, f"the base has no such layer in its {component}"))
            continue
        try:
            add_module(changed[component], layer, module, reader)
        except Unfit as error:
            left_out.append((name, str(error)))
    return Applied(changed, tuple(left_out))


def layer_keys(component: str, weights: Weights) -> dict[str, str]:
    """A layer's name with its dots as underscores, as diffusers and as LDM have it -> its canonical name."""
    keys: dict[str, str] = {}
    for name in weights:
        layer = name.rpartition(".")[0]
        keys[underscored(layer)] = layer
        for other in ldm_names(layer, component) if component in ("unet", "vae") else ():
            keys.setdefault(underscored(other), layer)
    return keys


def add_module(weights: Weights, layer: str, module: AdapterModule, reader: Reader) -> None:
    """Let a module change the weight and the bias of its layer. Raises Unfit where it cannot."""
    parts = module.parts
    made: dict[str, Change] = {}
    if module.algorithm == "ia3":
        made["weight"] = scaling(parts, reader)
    elif module.algorithm in ("lora", "locon", "dora", "loha", "lokr") or "diff" in parts:
        made["weight"] = updating(module, reader)
    elif module.algorithm not in ("full", "norm"):
        raise Unfit(f"{module.algorithm} is not run by the reference step")
    for role, target in (("w_norm", "weight"), ("b_norm", "bias"), ("diff_b", "bias"), ("bias", "bias")):
        if role in parts:
            made[target] = adding(parts[role], reader)
    missing = next((kind for kind in made if f"{layer}.{kind}" not in weights), None)
    if missing:
        raise Unfit(f"the layer has no {missing}")
    for kind, change in made.items():
        name = f"{layer}.{kind}"
        weights[name] = replace(weights[name], change=both(weights[name], change))


def both(weight: Weight, change: Change) -> Change:
    before = weight.change
    if before is None:
        return change

    def one_after_the_other(values: "torch.Tensor") -> None:
        before(values)
        change(values)

    return one_after_the_other


def updating(module: AdapterModule, reader: Reader) -> Change:
    """Adds up·down·alpha/rank, or what stands for it in another algorithm; DoRA then gives the rows their lengths."""
    scale = scale_of(module)

    def change(values: "torch.Tensor") -> None:
        update = dense(reader.update(module))
        if update.numel() != values.numel() or update.shape[0] != values.shape[0]:
            raise Unfit(f"its update is {tuple(update.shape)}, the layer's weight {tuple(values.shape)}")
        values.add_((update * scale).to(values.device, values.dtype).view(values.shape))
        if "dora_scale" in module.parts:
            give_lengths(values, numbers(reader, module.parts["dora_scale"]))

    return change


def give_lengths(values: "torch.Tensor", lengths: "torch.Tensor") -> None:
    """Weight decomposition: each row (or column) gets the length that the file says."""
    rows, columns = values.shape[0], values.shape[1]
    if lengths.numel() not in (rows, columns):
        raise Unfit("its dora_scale fits neither rows nor columns")
    by_row = lengths.shape[0] == rows and lengths.numel() == rows
    flat = values.flatten(1) if by_row else values.transpose(0, 1).flatten(1)
    norm = flat.norm(dim=1)
    factor = lengths.flatten() / norm.clamp_min(1e-12)
    values.mul_(factor.view(-1, *[1] * (values.dim() - 1)) if by_row else factor.view(1, -1, *[1] * (values.dim() - 2)))


def scaling(parts: dict[str, Tensor], reader: Reader) -> Change:
    """IA3 multiplies outputs, or inputs."""
    on_input = bool(numbers(reader, parts["on_input"]).flatten()[:1].any())

    def change(values: "torch.Tensor") -> None:
        factor = numbers(reader, parts["weight"]).flatten()
        axis = 1 if on_input else 0
        if factor.numel() != values.shape[axis]:
            raise Unfit("its factors do not fit the layer")
        values.mul_(factor.view(*[-1 if at == axis else 1 for at in range(values.dim())]))

    return change


def adding(tensor: Tensor, reader: Reader) -> Change:
    def change(values: "torch.Tensor") -> None:
        more = numbers(reader, tensor)
        if more.numel() != values.numel():
            raise Unfit(f"{tensor.name!r:.80} does not fit the layer")
        values.add_(more.view(values.shape))

    return change


def numbers(reader: Reader, tensor: Tensor) -> "torch.Tensor":
    """The values of a part, in F32."""
    import torch

    from ckptool.convert.numbers import values

    reader.check(tensor)
    return torch.from_numpy(values(tensor).astype("<f4"))


def dense(update: Update) -> "torch.Tensor":
    """The matrix [rows, columns × kernel] of an update, in F64; checked to be of a size to be held."""
    import torch

    match update:
        case Dense():
            return aligned(update.matrix)
        case Factored():
            check_size(update.left.shape[0], update.right.shape[1])
            return aligned(update.left) @ aligned(update.right)
        case Kron():
            one, two = dense(update.one), dense(update.two)
            check_size(one.shape[0] * two.shape[0], one.shape[1] * two.shape[1])
            return torch.kron(one, two)


def aligned(matrix: Any) -> "torch.Tensor":
    """A copy where torch puts its own tensors: numpy's lie here or there, and products follow that in the last bits."""
    import torch

    return torch.from_numpy(matrix).clone(memory_format=torch.contiguous_format)


def vectors(plan: Plan) -> dict[str, Tensor]:
    """The vectors of an embedding by the text encoder that they are for. Raises Unknown."""
    found = {FOR_ENCODER.get(t.name, "text_encoder"): t for t in plan.tensors if 1 <= len(t.shape) <= 2}
    if not found:
        raise Unknown("it holds no vectors")
    return found


def embedding(tensor: Tensor) -> Callable[[Any], None]:
    """Puts the vectors where the words of a prompt stand, behind its beginning."""

    def prepare(network: Any) -> None:
        made = numbers(Reader(), tensor).reshape(-1, tensor.shape[-1])

        def replaced(_: Any, __: Any, output: "torch.Tensor") -> "torch.Tensor":
            count = min(len(made), output.shape[1] - 2)
            output = output.clone()
            output[:, 1 : 1 + count] = made[:count].to(output.device)
            return output

        layers = {canonical(name): layer for name, layer in network.module.named_modules()}
        layer = layers["embeddings.token_embedding"]
        if layer.embedding_dim != tensor.shape[-1]:
            raise Unknown(f"its vectors are {tensor.shape[-1]:,} wide, the text encoder takes {layer.embedding_dim:,}")
        layer.register_forward_hook(replaced)

    return prepare
