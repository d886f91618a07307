"""What lies below one address of a bucket: outputs and their papers, each put there in one step."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ckptool.address import Address, Source
from ckptool.convert.remote_bytes import Remote
from ckptool.convert.remote_patience import Passing, Patience, patiently
from ckptool.convert.remote_s3 import CREDENTIALS, Bucket, bucket_place
from ckptool.errors import CkptoolError, OverBudget, Refused, UsageError
from ckptool.text import escape

PART = 1 << 23
"""Bytes of one request; a larger file is sent in parts, of which a few are in memory."""
PARTS = 10_000
AT_ONCE = 4
LISTED = 1_000_000
LONGEST_KEY = 1024
ONCE = {"retries": {"total_max_attempts": 1}}
"""Of botocore: s3fs tries five times where a connection breaks, and Patience five times that, which is enough."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One object, as the bucket lists it."""

    size: int
    version: str


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """Objects by their names below the prefix, with slashes. Used by several threads at once.

    Everything that asks the bucket raises UsageError where it is not there or may not be used so, Unreachable where
    it does not answer.
    """

    bucket: str
    prefix: str
    """Empty, or with a slash at its end."""
    system: Any
    patience: Patience = field(default_factory=Patience)

    def label(self, name: str = "") -> str:
        return escape(f"s3://{self.bucket}/{self.prefix}{name}".rstrip("/"), 1000)

    def check_apart(self, source: Source) -> None:
        """Raises UsageError when outputs would lie among the sources."""
        if not isinstance(source, Address) or source.scheme != "s3":
            return
        own, other = f"{self.bucket}/{self.prefix}", source.url.removeprefix("s3://").rstrip("/") + "/"
        if own.startswith(other) or other.startswith(own):
            raise UsageError(
                f"{self.label()}: outputs would lie among the sources, {escape(str(source), 1000)}",
                "give another prefix: sources are never touched",
            )

    def key(self, name: str) -> str:
        """Raises Refused for a name that no object can have."""
        key = self.prefix + name
        try:
            if len(key.encode()) <= LONGEST_KEY:
                return key
            what = f"is longer than {LONGEST_KEY:,} bytes"
        except UnicodeEncodeError:
            what = "is not UTF-8"
        raise Refused(f"{self.label(name)}: as the name of an object, this {what}", "give the source another name")

    def call(self, method: str, name: str, **values: Any) -> Any:
        """The answer to one request. Raises FileNotFoundError too."""
        return self.asked(lambda: self.system.call_s3(method, Bucket=self.bucket, **values), name)

    def asked(self, ask: Callable[[], Any], name: str) -> Any:
        label = self.label(name)

        def once() -> Any:
            try:
                return ask()
            except FileNotFoundError:
                raise
            except Exception as error:  # botocore's errors have no common base of their own
                raise meant(error, label) from error

        return patiently(once, label, self.patience)

    def files(self) -> dict[str, Stored]:
        """Everything below the prefix, in order; what stands for an empty folder is nothing."""
        found: dict[str, Stored] = {}
        more: dict[str, str] = {}
        while True:
            page = self.page(**more)
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    stored = Stored(int(item["Size"]), str(item.get("ETag")))
                    found[item["Key"][len(self.prefix) :]] = stored
            if not page.get("IsTruncated"):
                return dict(sorted(found.items()))
            if len(found) > LISTED:
                raise OverBudget(f"{self.label()}: more than {LISTED:,} objects", "give a prefix for each part of them")
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def page(self, **values: Any) -> Any:
        """One answer to the question what there is."""
        try:
            return self.call("list_objects_v2", "", Prefix=self.prefix, **values)
        except FileNotFoundError as error:
            raise UsageError(f"{self.label()}: there is no such bucket", "make it, or check the address") from error

    def size(self, name: str) -> int | None:
        """Bytes of an object, None where there is none."""
        try:
            return int(self.call("head_object", name, Key=self.key(name))["ContentLength"])
        except FileNotFoundError:
            return None

    def read(self, name: str, most: int, size: int | None = None) -> bytes | None:
        """A whole object of at most so many bytes, None where there is none like that; `size` where it is known."""
        size = self.size(name) if size is None else size
        if size is None or size > most:
            return None
        where = f"{self.bucket}/{self.key(name)}"
        try:
            return bytes(self.asked(lambda: self.system.cat_file(where, start=0, end=size), name)) if size else b""
        except FileNotFoundError:
            return None

    def open(self, name: str) -> Remote:
        return Bucket(self.bucket, "", self.system, self.patience).open(self.key(name))

    def write(self, name: str, data: bytes) -> str:
        """A small object in one request; its version."""
        return str(self.kept("put_object", name, Key=self.key(name), Body=data).get("ETag"))

    def put(self, name: str, fd: int, stopped: Callable[[], bool]) -> None:
        """An object of the bytes of an open file; when that fails, or is to stop, no part of it stays."""
        size = os.fstat(fd).st_size
        if size <= PART:
            self.write(name, os.pread(fd, PART, 0))
            return
        key = self.key(name)
        self.abort_earlier(key)
        upload = {"Key": key, "UploadId": self.kept("create_multipart_upload", name, Key=key)["UploadId"]}
        try:
            self.put_parts(name, fd, size, upload, stopped)
        except BaseException:
            with suppress(CkptoolError, OSError):
                self.call("abort_multipart_upload", name, **upload)
            raise

    def put_parts(self, name: str, fd: int, size: int, upload: dict[str, str], stopped: Callable[[], bool]) -> None:
        length = max(PART, -(-size // PARTS))

        def part(number: int) -> dict[str, Any]:
            if stopped():
                raise ended(self.label(name))
            data = os.pread(fd, length, number * length)
            sent = self.kept("upload_part", name, **upload, PartNumber=number + 1, Body=data)
            return {"PartNumber": number + 1, "ETag": sent["ETag"]}

        with ThreadPoolExecutor(AT_ONCE) as pool:
            parts = list(pool.map(part, range(-(-size // length))))
        try:
            self.kept("complete_multipart_upload", name, **upload, MultipartUpload={"Parts": parts})
        except CkptoolError:
            if self.size(name) != size:  # else its answer was lost, and asked for again there was no such upload
                raise

    def kept(self, method: str, name: str, **values: Any) -> Any:
        """The answer to a request that keeps bytes."""
        try:
            return self.call(method, name, **values)
        except FileNotFoundError as error:
            raise UsageError(f"{self.label(name)}: the bucket or the upload is gone", "run it again") from error

    def abort_earlier(self, key: str) -> None:
        """End uploads that a run which was killed has left: their parts are paid for, and nobody sees them."""
        with suppress(CkptoolError, FileNotFoundError):  # not everybody may ask for them
            found = self.call("list_multipart_uploads", "", Prefix=key)
            for upload in found.get("Uploads", ()):
                if upload["Key"] == key:
                    self.call("abort_multipart_upload", "", Key=key, UploadId=upload["UploadId"])

    def remove(self, names: Iterable[str]) -> None:
        """Whatever is there of these, in one request."""
        objects = [{"Key": self.key(name)} for name in names]
        found = self.kept("delete_objects", "", Delete={"Objects": objects, "Quiet": True})
        for error in found.get("Errors", ()):
            label = self.label(str(error.get("Key", ""))[len(self.prefix) :])
            told = escape(str(error.get("Code")), 80)
            raise Refused(f"{label}: cannot be removed: {told}", "check what these credentials may do")


def ended(label: str) -> Refused:
    return Refused(f"{label}: the run was ended before all was put there", "run it again")


def meant(error: Exception, label: str) -> Exception:
    """What an error means: Passing where another try may help."""
    if isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "ProfileNotFound"):
        what = f"{label}: these credentials, or none, may not do that there"
        return UsageError(what, f"{CREDENTIALS}; outputs need the rights to list, read, write and delete")
    response: Any = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    code = escape(str(response.get("Error", {}).get("Code", "")), 80)
    return Passing(f"its host gives no proper answer{code and ': ' + code}")


@lru_cache(maxsize=8)
def shelf_at(address: str) -> Shelf:
    """Raises UsageError where the extra is not installed, or the address is none of a bucket."""
    place = bucket_place(Address(address))
    import s3fs  # type: ignore[import-untyped]

    assert isinstance(place.store, Bucket)
    system = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=ONCE)
    return Shelf(place.store.bucket, f"{place.path}/" if place.path else "", system)
