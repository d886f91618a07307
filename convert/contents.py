"""What a container hands over: the value of its pickle, and where the bytes of its storages lie."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ckptool.convert.examine import Pickle
from ckptool.convert.values import Storage, Value
from ckptool.errors import CkptoolError
from ckptool.source import Record
from ckptool.tensor import Finding


@dataclass(slots=True, eq=False)
class Contents:
    """A file of pickles that was interpreted. `error` says why it cannot be converted, if it cannot."""

    format: str
    value: Value = None
    locate: Callable[[Storage], Record] | None = None
    pickles: list[Pickle] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    big_endian: bool = False
    error: CkptoolError | None = None
