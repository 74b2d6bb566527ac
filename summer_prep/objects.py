"""The objects of a bucket: asked for through obstore, and whatever is wrong with it as one line."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from summer_prep.errors import CacheError, SettingsError
from summer_prep.extras import load_extra
from summer_prep.places import Url

Result = TypeVar("Result")

SCHEMES = ("s3", "gs", "az")

_CHUNK_BYTES = 8 * 2**20
_TIMEOUTS = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(seconds=60)}
_RETRIES: Any = {"max_retries": 6, "retry_timeout": timedelta(seconds=90)}
_IN_URL = re.compile(r"[a-z0-9]+:/(/[^/#?%\\\s]+)+")


class MissingObjectError(Exception):
    """The bucket has no such object."""


class ConditionError(Exception):
    """An object was not written: it is no longer, or not yet, the one on whose condition it was to be."""


class Objects:
    """The objects below a URL.

    Raises
    ------
    SettingsError : the extra for buckets is missing, or there can be no bucket at the URL
    """

    def __init__(self, url: Url, option: str) -> None:
        check_bucket_url(url, option)
        self.url = url
        self.obstore = load_extra("obstore", "bucket", f"{option} {url}")
        load_extra("obstore.store", "bucket", f"{option} {url}")
        try:
            self.store = self.store_at(url)
        except Exception as error:
            raise SettingsError(f"{option} {url}: {_first_line(error)}. Check the URL and its credentials") from error

    def store_at(self, url: Url) -> Any:
        """Return obstore's store of the objects below a URL."""
        return self.obstore.store.from_url(url, **client_options())

    def list(self, prefix: str) -> list[Any]:
        """Return path, size and last_modified of the objects below a prefix.

        Raises
        ------
        CacheError : the bucket cannot be read
        """
        try:
            return list(self._call(lambda store: self.obstore.list(store, prefix).collect()))
        except MissingObjectError as error:
            raise CacheError(f"{self.url}: no such bucket ({error}). Check --cache-dir") from error

    def get(self, path: str) -> bytes:
        """Return the content of an object; raises MissingObjectError, or CacheError if it cannot be read."""
        return self.get_version(path)[0]

    def get_version(self, path: str) -> tuple[bytes, dict[str, str]]:
        """As `get`, with what a write on the condition that it is still this one takes."""
        response = self._call(self.obstore.get, path)
        version = {name: response.meta[name] for name in ("e_tag", "version") if response.meta.get(name)}
        return self._call(lambda _: bytes(response.bytes())), version

    def stream(self, path: str, start: int, stop: int) -> Iterator[bytes]:
        """Yield an object's bytes in pieces, each of which is asked for anew where a connection is cut.

        Raises
        ------
        MissingObjectError, CacheError : as `get`
        """
        for begin in range(start, stop, _CHUNK_BYTES):
            end = min(begin + _CHUNK_BYTES, stop)
            yield bytes(self._call(self.obstore.get_range, path, start=begin, end=end))

    def put(self, path: str, content: bytes) -> None:
        """Write an object; raises CacheError."""
        self._call(self.obstore.put, path, content)

    def put_if(self, path: str, content: bytes, version: Mapping[str, str] | None) -> None:
        """Write an object if it is still the one of a version, or is not there (None).

        Raises
        ------
        ConditionError : it is another one
        CacheError : it cannot be written
        """
        mode: Any = "create" if version is None else dict(version)
        try:
            self._call(self.obstore.put, path, content, mode=mode)
        except (self.obstore.exceptions.AlreadyExistsError, self.obstore.exceptions.PreconditionError) as error:
            raise ConditionError(path) from error

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; raises CacheError."""
        self._call(self.obstore.delete, list(paths))

    def _call(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Ask the bucket; whatever is wrong with it, but a missing object or a failed condition, is one line."""
        exceptions = self.obstore.exceptions
        try:
            return function(self.store, *arguments, **options)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise
        except FileNotFoundError as error:
            raise MissingObjectError(_first_line(error)) from error
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise CacheError(f"{self.url}: {_first_line(error)}. Check URL, credentials and network") from error


def check_bucket_url(url: Url, option: str) -> None:
    """Refuse a URL that is no bucket's, or that its parts may not make up: some clients would read another one.

    Raises
    ------
    SettingsError : it is one
    """
    if url.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise SettingsError(f"{option} {url}: a cache can be a folder, or in a bucket at {known}")
    if not _IN_URL.fullmatch(url) or {".", ".."} & set(url.split("/")):
        raise SettingsError(
            f"{option} {url}: must be like {url.scheme}://bucket/folder, without spaces, empty parts, "
            "'.', '..', and the letters # ? % \\"
        )


def client_options() -> Any:
    """Return how patient the bucket's client is; and that servers of one's own, like MinIO, need no TLS."""
    is_plain = os.environ.get("AWS_ENDPOINT", os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://")
    return {"client_options": {**_TIMEOUTS, "allow_http": is_plain}, "retry_config": _RETRIES}


def _first_line(error: BaseException) -> str:
    """Return what an error of obstore says to people: the server's status and message, or its own first line."""
    text = str(error)
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    message = re.search(r"<Message>([^<]*)</Message>", text)
    if status is not None:
        return f"{status[1].strip()}{': ' + message[1].strip().rstrip('.') if message else ''}"
    line = next((line for line in text.splitlines() if line.strip()), repr(error))
    return re.sub(r"\s+", " ", line)[:300].rstrip(" .")
