"""Repositories of the Hugging Face Hub: pinned to one commit, read with the token from its usual places."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ckptool.address import HUB, NO_NAMES, Address, is_private
from ckptool.convert.remote import Place, Stated
from ckptool.convert.remote_bytes import Remote
from ckptool.convert.remote_client import Http
from ckptool.convert.remote_http import HttpOrigin, origin_of
from ckptool.convert.remote_patience import Patience, patiently
from ckptool.convert.remote_web import endpoint, opened
from ckptool.errors import CkptoolError, Unreachable, UsageError
from ckptool.source import File
from ckptool.text import escape

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
NEXT = re.compile(r'<([^<>]{1,4000})>; *rel="next"')
MOST_ANSWER = 1 << 24
MOST_PAGES = 100
MOST_FILES = 100_000
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def hub_place(address: Address, commit: str = "") -> Place:
    """The place in a repository at a commit: by default the one that its revision stands for now."""
    found = HUB.fullmatch(address.url)
    assert found is not None  # an address of the Hub is one by this pattern
    repo, revision, path = found[1], unquote(found[2] or ""), found[3] or ""
    if repo.startswith(("datasets/", "spaces/", "models/")):
        raise UsageError(f"{address}: only repositories of models are read", "write it as hf://owner/repo/path")
    if path and NO_NAMES & set(path.split("/")):
        raise UsageError(f"{escape(str(address), 1000)}: is no path in a repository", "check it")
    hub = Hub(repo, revision, commit)
    if not commit:
        hub.pin()
    return Place(hub, path)


@dataclass(slots=True, eq=False)
class Hub:
    """One repository of models at one commit."""

    repo: str
    revision: str
    """As it was given; empty for the default branch."""
    commit: str = ""
    patience: Patience = field(default_factory=Patience)
    _files: dict[str, Stated] | None = None

    def label(self, path: str) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "") + (path and f"/{path}")

    def origin(self) -> tuple[str, str]:
        return self.label(""), self.commit

    def pin(self) -> None:
        """Look up the commit. All that is read is read at it."""
        self.commit = self.revision
        if COMMIT.fullmatch(self.revision):
            return
        at = f"/revision/{quote(self.revision, safe='')}" if self.revision else ""
        answer, _ = self.ask(f"{self.checked_endpoint()}/api/models/{self.repo}{at}", "")
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise Unreachable(
                f"{self.label('')}: the Hub names no commit of it", "check HF_ENDPOINT, or try again later"
            )
        self.commit = commit

    def files(self) -> Mapping[str, Stated]:
        """Every file of the commit."""
        if self._files is None:
            hub = self.checked_endpoint()
            url, files = f"{hub}/api/models/{self.repo}/tree/{self.commit}?recursive=true", dict[str, Stated]()
            for _ in range(MOST_PAGES):
                answer, headers = self.ask(url, "")
                files |= files_of(answer)
                if len(files) > MOST_FILES:
                    raise Unreachable(f"{self.label('')}: more than {MOST_FILES:,} files", "give one file of it")
                following = NEXT.search(headers.get("link", ""))
                if following is None:
                    break
                url = following[1]
                if origin_of(url) != origin_of(hub):
                    raise Unreachable(f"{self.label('')}: its list goes on at another host", "check HF_ENDPOINT")
            else:
                raise Unreachable(f"{self.label('')}: its list of files has no end", "give one file of it")
            self._files = files
        return self._files

    def stated(self, path: str) -> Stated:
        found = self.files().get(path)
        if found is None:
            raise UsageError(f"{escape(self.label(path), 1000)}: the repository has no such file", "check the path")
        return found

    def open(self, path: str) -> Remote | File:
        from huggingface_hub import hf_hub_url

        hub = self.checked_endpoint()
        url = hf_hub_url(self.repo, path, revision=self.commit, endpoint=hub)
        return opened(self.http(url, path), self.patience)

    def ask(self, url: str, path: str) -> tuple[Any, Mapping[str, str]]:
        """A small answer as data, with its headers."""
        origin = self.http(url, path)
        try:
            data, headers = patiently(lambda: origin.whole(MOST_ANSWER), origin.label, self.patience)
        finally:
            origin.close()
        try:
            return json.loads(data), headers
        except (ValueError, RecursionError) as error:
            raise Unreachable(
                f"{origin.label}: the Hub answers with something that is not JSON", "check HF_ENDPOINT"
            ) from error

    def http(self, url: str, path: str) -> HttpOrigin:
        label = escape(self.label(path), 1000)
        token = token_or_none()
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return HttpOrigin(Http(self.patience), url, label, headers, lambda status, h: self.explain(label, status, h))

    def explain(self, label: str, status: int, headers: Mapping[str, str]) -> CkptoolError | None:
        """What the Hub means by a status."""
        code = headers.get("x-error-code", "")
        if code == "GatedRepo":
            return UsageError(
                f"{label}: its owner gives it only to those who ask ({status})",
                f"accept its terms at {endpoint()}/{self.repo}, then {LOGIN}",
            )
        if code == "RevisionNotFound":
            return UsageError(f"{label}: the repository has no such revision", "check the part after @")
        if code == "EntryNotFound":
            return UsageError(f"{label}: the repository has no such file", "check the path and the revision")
        if status in (401, 403) and token_or_none():
            return UsageError(f"{label}: not for whom the token stands ({status})", f"check the name, or {LOGIN}")
        if status in (401, 403) or code == "RepoNotFound":
            return UsageError(f"{label}: there is no such repository, or it is private", f"check the name, or {LOGIN}")
        return None

    def checked_endpoint(self) -> str:
        """Raises UsageError where a token would go out in the open, or where nothing may be asked at all."""
        from huggingface_hub import constants

        if constants.is_offline_mode():
            raise UsageError(f"{self.label('')}: HF_HUB_OFFLINE forbids asking the Hub", "unset it, or give a path")
        if not is_private(urlsplit(endpoint())):
            raise UsageError("HF_ENDPOINT is no address that begins with https://", "unset it, or correct it")
        return endpoint()


def token_or_none() -> str | None:
    """The token from the environment or the file that `hf auth login` writes."""
    from huggingface_hub import get_token

    return get_token()


def files_of(answer: Any) -> dict[str, Stated]:
    """The files of one page of a list, as far as they are some."""
    entries = answer if isinstance(answer, list) else []
    return {
        entry["path"]: stated_by(entry)
        for entry in entries
        if isinstance(entry, dict)
        and entry.get("type") == "file"
        and isinstance(entry.get("path"), str)
        and type(entry.get("size")) is int
        and entry["size"] >= 0
        and not NO_NAMES & set(entry["path"].split("/"))
    }


def stated_by(entry: dict[str, Any]) -> Stated:
    """Large files are kept by their sha256, others by a hash of git's own."""
    large = entry.get("lfs")
    sha256 = large.get("oid") if isinstance(large, dict) else None
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        sha256 = None
    version = sha256 or entry.get("oid")
    return Stated(entry["size"], version if isinstance(version, str) else "", sha256)
