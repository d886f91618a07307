"""Objects of a bucket, by fsspec's S3 file system, which knows where credentials and endpoints are set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ckptool.address import NO_NAMES, Address
from ckptool.convert.remote import FILES, Place, Stated
from ckptool.convert.remote_bytes import Part, Remote
from ckptool.convert.remote_patience import Passing, Patience, patiently
from ckptool.errors import Unreachable, UsageError
from ckptool.text import escape

PIECE = 1 << 23
"""Bytes of one request: an answer is held in memory."""
LISTED = 100_000
CREDENTIALS = "AWS_PROFILE or AWS_ACCESS_KEY_ID say who asks, and AWS_ENDPOINT_URL whom"


def bucket_place(address: Address) -> Place:
    """The place in a bucket. Raises UsageError where the extra is not installed."""
    label = escape(str(address), 1000)
    try:
        import s3fs  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(f"{label}: reading from S3 needs s3fs", "pip install 'ckptool[s3]'") from error
    bucket, _, path = address.url.removeprefix("s3://").partition("/")
    path = path.rstrip("/")
    if not bucket or "?" in address.url or (path and NO_NAMES & set(path.split("/"))):
        raise UsageError(f"{label}: is no address of an object", "write it as s3://bucket/key")
    return Place(Bucket(bucket, path, s3fs.S3FileSystem(use_listings_cache=False)), path)


@dataclass(slots=True, eq=False)
class Bucket:
    """One bucket. It is listed below the folder that was given, or beside the file that was."""

    bucket: str
    given: str
    system: Any
    patience: Patience = field(default_factory=Patience)
    _files: dict[str, Stated] | None = None

    def label(self, path: str) -> str:
        return f"s3://{self.bucket}/{path}"

    def origin(self) -> tuple[str, str]:
        return self.label(self.given), ""

    def files(self) -> Mapping[str, Stated]:
        if self._files is None:
            given = Place(self, self.given)
            folder, depth = (given.parent.path, 1) if given.suffix.lower() in FILES else (self.given, None)
            where = f"{self.bucket}/{folder}".rstrip("/")
            found = asked(
                lambda: self.system.find(where, maxdepth=depth, detail=True), self.label(folder), self.patience
            )
            if len(found) > LISTED:
                raise UsageError(
                    f"{escape(self.label(folder), 1000)}: more than {LISTED:,} objects", "give one of them"
                )
            start = len(self.bucket) + 1
            self._files = {name[start:]: stated_by(info) for name, info in found.items()}
        return self._files

    def stated(self, path: str) -> Stated:
        info = asked(lambda: self.system.info(f"{self.bucket}/{path}"), self.label(path), self.patience)
        if info.get("type") != "file":
            raise UsageError(f"{escape(self.label(path), 1000)}: there is no such object", "check the address")
        return stated_by(info)

    def open(self, path: str) -> Remote:
        label, found = escape(self.label(path), 1000), self.stated(path)
        source = Objects(self.system, f"{self.bucket}/{path}", label, found, self.patience)
        return Remote(source, label, found.size, self.patience)


@dataclass(slots=True, eq=False)
class Objects:
    """One object, which has to stay what it was when it was opened."""

    system: Any
    key: str
    label: str
    stated: Stated
    patience: Patience

    def part(self, offset: int, length: int) -> Part:
        return Pieces(self, offset, offset + length)

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the object. Raises Passing, UsageError or Unreachable."""
        try:
            data = self.system.cat_file(self.key, start=start, end=end)
        except Exception as error:  # botocore's errors have no common base of their own
            final(error, self.label)
        if not isinstance(data, bytes) or len(data) != end - start:
            raise Passing("its host sends more or less than was asked for")
        return data

    def check_unchanged(self) -> None:
        """Raises Unreachable when another object stands there now: ranges alone do not show it."""
        info = asked(lambda: self.system.info(self.key), self.label, self.patience)
        if stated_by(info) != self.stated:
            raise Unreachable(f"{self.label}: is another object than before", "run it again")

    def close(self) -> None:
        """Connections belong to the file system."""


@dataclass(slots=True, eq=False)
class Pieces:
    """A run of bytes, asked for piece by piece."""

    source: Objects
    at: int
    end: int
    data: memoryview = field(default_factory=lambda: memoryview(b""))

    def take(self, buffer: memoryview) -> int:
        if not self.data:
            until = min(self.at + PIECE, self.end)
            self.data = memoryview(self.source.read(self.at, until))
            self.at = until
        count = min(len(buffer), len(self.data))
        buffer[:count] = self.data[:count]
        self.data = self.data[count:]
        return count

    def close(self) -> None:
        self.data = memoryview(b"")

    def shut(self) -> None:
        """A piece that is under way arrives, and is not used."""


def stated_by(info: Mapping[str, Any]) -> Stated:
    return Stated(int(info["size"]), str(info.get("ETag")))


def asked(ask: Callable[[], Any], label: str, patience: Patience) -> Any:
    """The answer to a question about objects."""
    label = escape(label, 1000)

    def once() -> Any:
        try:
            return ask()
        except Exception as error:  # botocore's errors have no common base of their own
            final(error, label)

    return patiently(once, label, patience)


def final(error: Exception, label: str) -> NoReturn:
    """Raise what an error means: Passing where another try may help."""
    if isinstance(error, FileNotFoundError):
        raise UsageError(f"{label}: there is no such object", "check the address") from error
    if isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "ProfileNotFound"):
        raise UsageError(f"{label}: may not be read with these credentials, or with none", CREDENTIALS) from error
    raise Passing("its host gives no proper answer") from error
