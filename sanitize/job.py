"""One file to be sanitized, as it is handed to the process that does it."""

from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from socket import socket
from typing import Any

from ckptool.address import source_of
from ckptool.convert.remote import Place, Where, located
from ckptool.sanitize.names import QUARANTINE, receipt_of, signature_of
from ckptool.sanitize.policy import Policy
from ckptool.sanitize.process.borrowed import borrowed

NAMES = ("kinds", "bases", "harmless")


@dataclass(frozen=True, slots=True)
class Job:
    """What, where to, and by which policy; paths are absolute."""

    path: Where
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
    commit: str | None = None
    """Of a repository, at which the source is read."""
    size: int | None = None
    """Bytes of a source on another machine, and of what belongs to it; known to the process that reads it."""
    store: str = ""
    """The address in a bucket that the output goes to; `out` is then a folder to work in."""

    @property
    def released(self) -> Path:
        return self.out / self.target

    @property
    def quarantined(self) -> Path:
        return self.out / QUARANTINE / self.target

    def told(self, output: Path) -> str:
        """An output as reports name it: below the folder as it was given."""
        if self.shown_out.startswith("s3://"):
            return f"{self.shown_out.rstrip('/')}/{output.relative_to(self.out).as_posix()}"
        return str(Path(self.shown_out) / output.relative_to(self.out))

    @property
    def data(self) -> dict[str, Any]:
        """As JSON can hold it. Of a source on another machine, where to find it: its address may hold a password."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        path = str(self.path) if isinstance(self.path, Path) else [*self.path.store.origin(), self.path.path]
        return found | {"path": path, "out": str(self.out), "policy": asdict(self.policy)}

    def lent(self, size: int) -> dict[str, Any]:
        """The same for a process that borrows the source of this one, and is not told where it comes from."""
        assert isinstance(self.path, Place)
        return replace(self, path=Path(), size=size).data | {"path": ["", "", self.path.path]}

    @classmethod
    def of(cls, data: dict[str, Any], channel: socket | None = None) -> "Job":
        """Of its data; `channel` is where a source on another machine is borrowed."""
        policy = Policy(**data["policy"] | {name: tuple(data["policy"][name]) for name in NAMES})
        path: Where
        if isinstance(data["path"], str):
            path = Path(data["path"])
        elif channel is not None:
            path = borrowed(channel, data["path"][2], data["shown"])
        else:
            address, commit, within = data["path"]
            path = Place(root_of(address, commit).store, within)
        return cls(**data | {"path": path, "out": Path(data["out"]), "policy": policy})

    def clear(self) -> None:
        """Remove what an earlier run made of this source, signatures and receipts first."""
        for output in (self.released, self.quarantined):
            signature_of(receipt_of(output)).unlink(missing_ok=True)
            receipt_of(output).unlink(missing_ok=True)
        for output in (self.released, self.quarantined):
            output.unlink(missing_ok=True)
            output.with_suffix(".yaml").unlink(missing_ok=True)


@lru_cache(maxsize=64)
def root_of(address: str, commit: str) -> Place:
    """The place that sources were found below, on a machine that did not look for them itself."""
    place = located(source_of(address), commit)
    assert isinstance(place, Place)
    return place
