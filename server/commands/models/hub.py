"""A repository of a hub: its files at one revision, and their download into files that nobody reads yet.

Knows the hub's HTTP, its digests and how a download goes on where it stopped; knows neither models nor where their
files belong. No other module asks a hub. What has come is compared with the digest that the hub names: SHA-256 of what
it keeps as large files, Git's SHA-1 of the others.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from server.commands.failure import CommandFailed

if TYPE_CHECKING:
    import httpx

_CHUNK_BYTES = 1024 * 1024
TIMEOUT_S = 30.0  # without a byte
_MAX_TRIES = 6  # in a row that bring nothing
_MAX_PAUSE_S = 16.0
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)", re.ASCII)

Report = Callable[[int], None]  # of bytes that have come; fewer than none where some have to come again


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub describes it."""

    name: str
    size: int | None  # bytes
    sha256: str | None  # of what is kept as a large file
    blob: str | None  # Git's SHA-1, of the others

    def is_at(self, path: Path) -> bool:
        """Has this path the file's bytes? No, where the hub names no digest."""
        if (self.sha256 is None and self.blob is None) or not path.is_file() or path.stat().st_size != self.size:
            return False
        digest = self.digest()
        _read_into(digest, path)
        return self.is_digest(digest)

    def digest(self) -> Any:
        """A new hash of the kind that the hub names."""
        if self.sha256 is not None or self.size is None:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def is_digest(self, digest: Any) -> bool:
        """Is it the hash that the hub names, as far as it names one?"""
        named = self.sha256 or (self.blob if self.size is not None else None)
        return named is None or digest.hexdigest() == named


@dataclass(frozen=True)
class Repository:
    """A repository at one revision."""

    name: str
    endpoint: str
    revision: str
    files: Mapping[str, HubFile]
    headers: Mapping[str, str]  # with the token of who asks, where there is one

    def url(self, file: HubFile) -> str:
        """Where the hub gives a file; it may send elsewhere."""
        return f"{self.endpoint}/{quote(self.name)}/resolve/{quote(self.revision, safe='')}/{quote(file.name)}"


def ask(name: str) -> Repository:
    """A repository as its hub describes it now. Raises CommandFailed."""
    from huggingface_hub import HfApi, get_token

    api = HfApi()
    try:
        info = api.model_info(name, files_metadata=True)
    except Exception as error:  # the library's own, its HTTP client's, and that of a name that is none
        raise CommandFailed(_in_words(name, error)) from error
    files = {
        sibling.rfilename: HubFile(
            sibling.rfilename,
            sibling.size if sibling.lfs is None else sibling.lfs.size,
            None if sibling.lfs is None else sibling.lfs.sha256,
            None if sibling.lfs is not None else sibling.blob_id,
        )
        for sibling in info.siblings or ()
    }
    token = get_token()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return Repository(name, api.endpoint, info.sha or "main", files, headers)


def _in_words(name: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    if kind == "OfflineModeIsEnabled":
        return f"{name} was not asked for: HF_HUB_OFFLINE is set"
    if status in (401, 403, 404):
        return _refusal(name, status)
    return f"{name} could not be asked for: {kind}{'' if status is None else f' ({status})'}"


def _refusal(name: str, status: int) -> str:
    if status == 404:
        return f"{name}: the hub has no such repository or file, or shows it to its owners alone"
    return f"{name}: the hub wants a key that may read it ({status}): set HF_TOKEN, and accept its terms there"


def pause(tries: int) -> None:
    """Wait before the hub is asked again."""
    time.sleep(min(0.5 * 2**tries, _MAX_PAUSE_S))


class Download:
    """Downloads of one repository into a folder, each under a name of its own until it is whole."""

    def __init__(self, repository: Repository, folder: Path, client: httpx.Client) -> None:
        self._repository = repository
        self._folder = folder
        self._client = client

    def path(self, file: HubFile) -> Path:
        """Where a file lies once it is whole."""
        return self._folder / self._key(file)

    def come(self, file: HubFile) -> int:
        """Bytes of a file that are here already, of this run or of an earlier one."""
        for path in (self.path(file), self._partial(file)):
            if path.is_file():
                return path.stat().st_size
        return 0

    def fetch(self, file: HubFile, report: Report) -> Path:
        """Have a whole file here, going on where an earlier run stopped. Raises CommandFailed, OSError."""
        whole, partial = self.path(file), self._partial(file)
        if whole.is_file():
            report(whole.stat().st_size)
            return whole
        resumed = partial.is_file() and partial.stat().st_size > 0
        digest = self._complete(file, partial, report)
        if not file.is_digest(digest) and resumed:
            # What an earlier run had left was not of this file, or was damaged since.
            report(-partial.stat().st_size)
            partial.unlink()
            digest = self._complete(file, partial, report)
        if not file.is_digest(digest):
            partial.unlink()
            raise CommandFailed(
                f"{file.name}: the bytes that came are not those that the hub names; nothing is changed"
            )
        partial.rename(whole)
        return whole

    def _complete(self, file: HubFile, partial: Path, report: Report) -> Any:
        """Bring a partial file to its end, and hash it."""
        digest = file.digest()
        with partial.open("ab") as out:
            come = _read_into(digest, partial) if out.tell() else 0
            if file.size is not None and come > file.size:
                out.truncate(0)
                digest, come = file.digest(), 0
            report(come)
            tries = 0
            while file.size is None or come < file.size:
                more, complete, digest = self._some(file, out, digest, come, report)
                tries = 0 if more > come else tries + 1
                come = more
                if complete and (file.size is None or come == file.size):
                    break
                if tries >= _MAX_TRIES:
                    raise CommandFailed(f"{file.name}: the hub breaks off; what has come is kept: run it again")
                if not complete:
                    pause(tries)
            out.flush()
            os.fsync(out.fileno())
        return digest

    def _some(self, file: HubFile, out: Any, digest: Any, come: int, report: Report) -> tuple[int, bool, Any]:
        """Ask once for the bytes from ``come`` on. Returns how many are here, whether the answer was whole, and their
        hash: the hub may begin anew."""
        import httpx

        headers = {**self._repository.headers, "Accept-Encoding": "identity"}
        if come:
            headers["Range"] = f"bytes={come}-"
        try:
            with self._client.stream("GET", self._repository.url(file), headers=headers) as answer:
                if answer.status_code in _TRY_AGAIN:
                    return come, False, digest
                if answer.status_code not in (200, 206, 416):
                    raise CommandFailed(self._refused(file, answer.status_code))
                if come and not _goes_on(answer, come):
                    report(-come)
                    out.truncate(0)
                    digest, come = file.digest(), 0
                if answer.status_code == 416:
                    return come, False, digest
                for chunk in answer.iter_raw():
                    out.write(chunk)
                    digest.update(chunk)
                    come += len(chunk)
                    report(len(chunk))
                    if file.size is not None and come > file.size:
                        break
        except httpx.TransportError:
            return come, False, digest
        except httpx.HTTPError as error:
            raise CommandFailed(f"{file.name} could not be fetched: {type(error).__name__}") from error
        if file.size is not None and come > file.size:
            out.truncate(0)
            raise CommandFailed(f"{file.name}: more came than the {file.size} bytes that the hub names")
        return come, True, digest

    def _refused(self, file: HubFile, status: int) -> str:
        if status in (401, 403, 404):
            return f"{file.name}: {_refusal(self._repository.name, status)}"
        return f"{file.name} could not be fetched: the hub says {status}"

    def _partial(self, file: HubFile) -> Path:
        return self._folder / f"{self._key(file)}.part"

    def _key(self, file: HubFile) -> str:
        """A name that no other content has: what is left of another revision is never gone on with."""
        content = file.sha256 or file.blob or self._repository.revision
        return hashlib.sha256(f"{content}\0{file.size}\0{file.name}".encode()).hexdigest()


def _goes_on(answer: httpx.Response, come: int) -> bool:
    """Does an answer begin where the file ends that is here?"""
    said = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    return answer.status_code == 206 and said is not None and int(said[1]) == come


def _read_into(digest: Any, path: Path) -> int:
    count = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            count += len(chunk)
    return count
