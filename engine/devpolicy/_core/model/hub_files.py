"""The hub's files, by ranges: what is asked of a server, within which limits, and what its refusals mean.

Owns the use of `huggingface_hub`, which reads the token, `HF_ENDPOINT` and the offline switches. An answer is read only
as far as it was asked for, so that a server that ignores ranges costs no more than one that does not.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from devpolicy._core.errors import Diagnostic, ModelError
from devpolicy._core.model.files import shown
from devpolicy._core.model.limits import LARGEST_TRAFFIC

INSTALL = "install the hub's client: `pip install 'devpolicy[hub]'`"
PATIENCE = 60.0
"""Seconds that one answer may take, however slowly its bytes come."""


class Repository(NamedTuple):
    """A model on the hub at one revision: the commit, and the sizes of its files."""

    name: str
    commit: str
    sizes: Mapping[str, int]


class Hub:
    """A hub that is asked for small parts of files. Counts what it reads. Safe to use from several threads."""

    def __init__(self) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors, utils
        except ImportError:
            raise ModelError(Diagnostic("DP204", "the hub's client is not installed", help=INSTALL)) from None
        self._hub: Any = huggingface_hub
        self._errors: Any = errors
        self._utils: Any = utils
        self.endpoint: str = constants.ENDPOINT
        self.offline: bool = constants.HF_HUB_OFFLINE
        self._timeout: float = constants.HF_HUB_DOWNLOAD_TIMEOUT
        self.traffic = 0
        self._lock = threading.Lock()

    def repository(self, name: str, revision: str | None) -> Repository:
        """Return what a model's revision holds. Raises `ModelError`, DP204."""
        try:
            info = self._hub.HfApi(endpoint=self.endpoint).model_info(
                name, revision=revision, files_metadata=True, timeout=self._timeout
            )
            commit, files = info.sha, info.siblings or []
        except Exception as broken:  # noqa: BLE001 - whatever the client and its transport raise
            raise self._refused(name, revision, broken) from None
        if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            raise _strange(name, "it names no commit")
        sizes = {one.rfilename: one.size for one in files if isinstance(one.rfilename, str)}
        return Repository(name, commit, {file: size for file, size in sizes.items() if _is_size(size)})

    def read(self, repository: Repository, file: str, begin: int, length: int) -> bytes:
        """Return `length` bytes of a file from `begin`, fewer at its end. Raises `ModelError`, DP204."""
        size = repository.sizes[file]
        end = min(begin + length, size)
        if begin >= end:
            return b""
        with self._lock:
            self.traffic += end - begin
            if self.traffic > LARGEST_TRAFFIC:
                raise _strange(repository.name, f"its headers are larger than {LARGEST_TRAFFIC >> 20} MiB, the limit")
        url = self._hub.hf_hub_url(repository.name, file, revision=repository.commit, endpoint=self.endpoint)
        headers = {
            **self._utils.build_hf_headers(library_name="devpolicy"),
            "Range": f"bytes={begin}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        try:
            status, content, total = self._get(url, headers, begin, end - begin)
        except ModelError:
            raise
        except Exception as broken:  # noqa: BLE001 - whatever the client and its transport raise
            raise self._refused(repository.name, repository.commit, broken) from None
        if total is not None and total != size:
            raise _strange(repository.name, f"`{shown(file)}` has {total} bytes, and {size} were announced")
        if len(content) < end - begin:
            told = f"of `{shown(file)}` came {len(content)} bytes for {end - begin} (status {status})"
            raise _strange(repository.name, told)
        return content

    def _get(self, url: str, headers: dict[str, str], begin: int, length: int) -> tuple[int, bytes, int | None]:
        """Return the status, the bytes that were asked for, and the size of the whole file where the answer has it."""
        due = time.monotonic() + PATIENCE
        content = bytearray()
        with self._utils.get_session().stream(
            "GET", url, headers=headers, timeout=self._timeout, follow_redirects=True
        ) as answer:
            if answer.status_code >= 400:
                answer.read()
                self._utils.hf_raise_for_status(answer)
            partial = answer.status_code == 206
            wanted = length if partial else begin + length  # the whole file comes where ranges are ignored
            if wanted > LARGEST_TRAFFIC:
                raise _strange(url, "the server ignores ranges")
            for part in answer.iter_raw(1 << 16):
                content += part
                if len(content) >= wanted:
                    break
                if time.monotonic() > due:
                    raise TimeoutError(f"no answer within {PATIENCE:.0f} seconds")
            said = re.fullmatch(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})", answer.headers.get("Content-Range", ""))
        if partial and (said is None or int(said[1]) != begin):
            raise _strange(url, "the server sent another range than it was asked for")
        found = bytes(content[:wanted] if partial else content[begin:wanted])
        return answer.status_code, found, int(said[2]) if said else None

    def _refused(self, name: str, revision: str | None, broken: Exception) -> ModelError:
        """Return the finding of what the client raised, with the way out."""
        errors, where = self._errors, f"{self.endpoint}/{name}"
        answer = getattr(broken, "response", None)
        status = getattr(answer, "status_code", None)
        if isinstance(broken, errors.GatedRepoError):
            message = f"`{name}` is gated"
            help_ = f"accept its conditions at {where}, then log in: `hf auth login`, or set `HF_TOKEN`"
        elif isinstance(broken, errors.RevisionNotFoundError):
            message, help_ = f"`{name}` has no revision `{shown(revision)}`", f"its branches are at {where}/tree/main"
        elif isinstance(broken, errors.RepositoryNotFoundError):
            message = f"the hub has no model `{name}`, or it is private"
            help_ = "check the name; for a private one log in: `hf auth login`, or set `HF_TOKEN`"
        elif isinstance(broken, errors.HFValidationError):
            message, help_ = f"`{shown(name)}` is no name of a model on the hub", "write `hf://organisation/name`"
        elif status in (401, 403):
            message = f"the hub does not let you read `{name}` (status {status})"
            help_ = "check the token: `hf auth whoami`"
        elif status == 429:
            wait = answer.headers.get("Retry-After", "") if answer is not None else ""
            message = f"the hub asks to wait before it says more of `{name}`"
            help_ = f"try again in {wait} seconds" if wait.isdigit() else "try again in some minutes"
            help_ += "; those who are logged in may ask more often: `hf auth login`"
        else:
            reason = next(iter(str(broken).strip().splitlines()), "") or type(broken).__name__
            message = f"the hub did not answer for `{name}`: {reason[:200]}"
            help_ = f"check the connection to {self.endpoint}; `hf download {name}` fetches a model for offline use"
        return ModelError(Diagnostic("DP204", message, help=help_))


def _strange(name: str, reason: str) -> ModelError:
    return ModelError(
        Diagnostic("DP204", f"the hub's answer for `{shown(name)}` is not usable: {reason}", help="try again later")
    )


def _is_size(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 62
