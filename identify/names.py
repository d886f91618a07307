"""The names of a plan as the tables look at them: without what stands in front of every one."""

from dataclasses import dataclass, field

from ckptool.tensor import Plan, Tensor
from ckptool.text import escape

WRAPPERS = ("module.", "_orig_mod.", "net.", "model.")
"""What trainers and compilers put in front of every name."""
MARKERS = frozenset({"v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "scaled_fp8"})
"""Names that stay at the top whatever stands in front of the others."""
NOT_STRIPPED = ("model.0.weight", "model.diffusion_model.")
"""`model.` is part of these: the first layer of an ESRGAN, and a UNet in the LDM layout."""
MAX_WRAPPERS = 4
SHOWN_DIMS = 8


@dataclass(frozen=True, slots=True)
class Names:
    """Tensors by name, and what the names begin with."""

    tensors: dict[str, Tensor]
    firsts: frozenset[str] = field(default=frozenset())
    """The first part of each name."""
    seconds: frozenset[str] = field(default=frozenset())
    """The first two parts of each, with the dot between."""

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Names":
        firsts, seconds = set(), set()
        for name in tensors:
            first, _, rest = name.partition(".")
            firsts.add(first)
            if rest:
                seconds.add(f"{first}.{rest.partition('.')[0]}")
        return cls(tensors, frozenset(firsts), frozenset(seconds))

    def has(self, marker: str) -> bool:
        """Whether there is a tensor of this name; where a marker ends in a dot, one whose name begins with it."""
        if not marker.endswith("."):
            return marker in self.tensors
        if marker[:-1] in self.firsts or marker[:-1] in self.seconds:
            return True
        return marker.count(".") > 2 and any(name.startswith(marker) for name in self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, empty when it is not there."""
        tensor = self.tensors.get(name)
        return tensor.shape if tensor else ()

    def under(self, prefix: str) -> "Names":
        """The tensors whose names begin with `prefix`, by the rest of their names."""
        if not prefix:
            return self
        return Names.of({n[len(prefix) :]: t for n, t in self.tensors.items() if n.startswith(prefix)})


def names_of(plan: Plan) -> Names:
    """The names of a plan, without wrappers that stand in front of all of them."""
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    for _ in range(MAX_WRAPPERS):
        wrapper = common_wrapper(tensors)
        if wrapper is None:
            break
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return Names.of(tensors)


def common_wrapper(tensors: dict[str, Tensor]) -> str | None:
    """A wrapper that every name but the markers begins with."""
    first = next((name for name in tensors if name not in MARKERS), "")
    wrapper = next((w for w in WRAPPERS if first.startswith(w)), None)
    if wrapper is None or not all(name.startswith(wrapper) or name in MARKERS for name in tensors):
        return None
    if any(name.startswith(NOT_STRIPPED) for name in tensors):
        return None
    # A name that is the wrapper alone would become empty, and two names must not become one.
    if len({name.removeprefix(wrapper) for name in tensors} - {""}) < len(tensors):
        return None
    return wrapper


def shown(tensor: Tensor) -> str:
    """Name and shape, as evidence shows them."""
    dims = ", ".join(str(n) for n in tensor.shape[:SHOWN_DIMS]) + (", …" if len(tensor.shape) > SHOWN_DIMS else "")
    return f"{escape(tensor.name, 120)} [{dims}]"
