"""One file to be sanitized, as it is handed to the process that does it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ckptool.sanitize.names import QUARANTINE, receipt_of, signature_of
from ckptool.sanitize.policy import Policy

NAMES = ("kinds", "bases", "harmless")


@dataclass(frozen=True, slots=True)
class Job:
    """What, where to, and by which policy; paths are absolute."""

    path: Path
    shown: str
    """The source as it was given, for reports."""
    relative: str
    out: Path
    shown_out: str
    target: str
    listed: bool
    policy: Policy
    force: bool = False
    problem: str = ""
    """Why it is refused without a look at it."""

    @property
    def released(self) -> Path:
        return self.out / self.target

    @property
    def quarantined(self) -> Path:
        return self.out / QUARANTINE / self.target

    def told(self, output: Path) -> str:
        """An output as reports name it: below the folder as it was given."""
        return str(Path(self.shown_out) / output.relative_to(self.out))

    @property
    def data(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path), "out": str(self.out)}

    @classmethod
    def of(cls, data: dict[str, Any]) -> "Job":
        policy = Policy(**data["policy"] | {name: tuple(data["policy"][name]) for name in NAMES})
        return cls(**data | {"path": Path(data["path"]), "out": Path(data["out"]), "policy": policy})

    def clear(self) -> None:
        """Remove what an earlier run made of this source, signatures and receipts first."""
        for output in (self.released, self.quarantined):
            signature_of(receipt_of(output)).unlink(missing_ok=True)
            receipt_of(output).unlink(missing_ok=True)
        for output in (self.released, self.quarantined):
            output.unlink(missing_ok=True)
            output.with_suffix(".yaml").unlink(missing_ok=True)
