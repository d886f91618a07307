"""What the first level of `verify` says: how the original explains each tensor of the candidate."""

from dataclasses import dataclass, field
from typing import Any

from ckptool.report import Report
from ckptool.tensor import Tensor
from ckptool.verify.difference import First

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A tensor of the candidate that is not what it should be, or one of the original that is gone."""

    name: str
    component: str
    why: str
    first_difference: Data | None = None
    """index, original, candidate; differing, of, max_abs."""

    @property
    def data(self) -> Data:
        return {
            "name": self.name,
            "component": self.component,
            "why": self.why,
            "first_difference": self.first_difference,
        }


@dataclass(slots=True, eq=False)
class Explanation:
    """Each tensor by what happened to it."""

    identical: int = 0
    cast: list[Data] = field(default_factory=list)
    """name, from, to; `clamped` values held at the format's limit; `scale` of a scaled FP8 weight."""
    zeroed: dict[str, Data] = field(default_factory=dict)
    """Component -> values, of, fraction, relative_error, tensors."""
    threshold: float | None = None
    relative: bool = False
    ema: list[Data] = field(default_factory=list)
    """name, from: the average whose values stand there."""
    rank: dict[str, Data] = field(default_factory=dict)
    """Module -> from, to, relative_error, best."""
    repaired: list[str] = field(default_factory=list)
    """Position ids."""
    added: list[Data] = field(default_factory=list)
    """name, reason: tensors of the candidate that the original does not have, and need not."""
    renamed: list[Data] = field(default_factory=list)
    """from, to."""
    dropped: list[Data] = field(default_factory=list)
    """name, reason."""
    unexplained: list[Unexplained] = field(default_factory=list)
    inferred: list[str] = field(default_factory=list)
    """What nobody stated, in sentences."""
    components: dict[str, Data] = field(default_factory=dict)
    """Component -> tensors, explained."""
    meant: tuple[Tensor, ...] = ()
    """The original as the candidate should be but for rounding: the tensors that it was made from, by its own names."""
    other_naming: bool = False
    """The two name the same layers in other ways, LDM's and that of diffusers: their tensors were not paired."""
    made_zero: dict[str, int] = field(default_factory=dict)
    """Explained tensors whose values became zero -> how many."""
    compared: int = 0
    """Tensors that are in both files."""
    bytes_compared: int = 0

    @property
    def parity(self) -> bool:
        return not self.unexplained

    @property
    def data(self) -> Report:
        """The key `tensors` of the report."""
        return {
            "identical": self.identical,
            "cast": self.cast,
            "zeroed": self.zeroed,
            "ema": self.ema,
            "rank": self.rank,
            "repaired": self.repaired,
            "added": self.added,
            "renamed": self.renamed,
            "dropped": self.dropped,
            "unexplained": [item.data for item in self.unexplained],
            "inferred": self.inferred,
            "components": self.components,
        }

    def count(self, component: str, explained: bool) -> None:
        found = self.components.setdefault(component, {"tensors": 0, "explained": 0})
        found["tensors"] += 1
        found["explained"] += explained


def difference_data(
    first: First | None, shape: tuple[int, ...], differing: int, of: int, max_abs: float
) -> Data | None:
    """Where the first difference is, and how many there are."""
    if first is None:
        return None
    index: list[int] = []
    rest = first.index
    for length in reversed(shape):
        rest, place = divmod(rest, max(length, 1))
        index.append(place)
    return {
        "index": index[::-1],
        "original": first.original,
        "candidate": first.candidate,
        "differing": differing,
        "of": of,
        "max_abs": max_abs if max_abs < float("inf") else "inf",
    }
