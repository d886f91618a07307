"""How far a change moves the reference denoise step, where a largest error was asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ckptool.report import Report
from ckptool.tensor import Plan

Step = Callable[[Plan], Plan]


@dataclass(frozen=True, slots=True)
class Reached:
    """The error that was allowed and those that were measured, each the relative L2 of a component's outputs."""

    asked: float
    errors: Mapping[str, float]
    """Of the components that the change touches."""
    settings: Mapping[str, int | str] = field(default_factory=dict)
    """What to repeat the measurement with."""

    @property
    def component(self) -> str | None:
        """The one that is moved most."""
        return max(self.errors, key=lambda name: self.errors[name], default=None)

    @property
    def reached(self) -> float:
        return max(self.errors.values(), default=0.0)

    @property
    def data(self) -> Report:
        return {
            "asked": self.asked,
            "reached": significant(self.reached),
            "component": self.component,
            "components": {name: significant(error) for name, error in self.errors.items()},
            "settings": dict(self.settings),
        }


def moved(data: Report) -> str:
    """For people: what the report says was reached."""
    if data["component"] is None:
        return "the denoise step does not change at all"
    return f"moves the denoise step of {data['component']} by {data['reached']:.2g}, {data['asked']:g} allowed"


def significant(error: float) -> float:
    """Six digits: more would depend on the machine."""
    return float(f"{error:.6g}")
