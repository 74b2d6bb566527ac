"""The objects of a bucket: asked for through obstore, and whatever is wrong with it as one line."""

import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar

from summer_prep.errors import SettingsError, UnreachableError
from summer_prep.extras import load_extra
from summer_prep.places import Url

Result = TypeVar("Result")

SCHEMES = ("s3", "gs", "az")

_CHUNK_BYTES = 8 * 2**20
_TIMEOUTS = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(seconds=60)}
_RETRIES: Any = {"max_retries": 8, "retry_timeout": timedelta(seconds=60)}
"""Waits grow from 0.1 s twofold: about half a minute, which people with a wrong endpoint wait as well."""
_IN_URL = re.compile(r"[a-z0-9]+://[^/#?%\\\s@:]+(/[^/#?%\\\s]+)*")
_ENDPOINTS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/\S*)?")


_BEYOND_ITS_END = "416"


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
        self.obstore = load_extra("obstore", f"{option} {url}")
        load_extra("obstore.store", f"{option} {url}")
        try:
            self.store = self.store_at(url)
        except SettingsError:
            raise
        except Exception as error:
            raise SettingsError(f"{option} {url}: {first_line(error)}. Check the URL and its credentials") from error

    def store_at(self, url: Url) -> Any:
        """Return obstore's store of the objects below a URL."""
        return self.obstore.store.from_url(url, **client_options())

    def list(self, prefix: str) -> list[Any]:
        """Return path, size and last_modified of the objects below a prefix.

        Raises
        ------
        UnreachableError : the bucket cannot be read
        """
        try:
            return list(self._call(lambda store: self.obstore.list(store, prefix).collect()))
        except MissingObjectError as error:
            raise self._no_bucket(error) from error

    def _no_bucket(self, error: Exception) -> UnreachableError:
        return UnreachableError(f"{self.url}: no such bucket ({error}). Check the URL")

    def get(self, path: str) -> bytes:
        """Return the content of an object; raises MissingObjectError, or UnreachableError if it cannot be read."""
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
        MissingObjectError, UnreachableError : as `get`
        """
        for begin in range(start, stop, _CHUNK_BYTES):
            end = min(begin + _CHUNK_BYTES, stop)
            try:
                yield bytes(self._call(self.obstore.get_range, path, start=begin, end=end))
            except UnreachableError as error:
                if _BEYOND_ITS_END not in str(error):
                    raise
                return  # shorter than it was: what arrived is not what was written

    def put(self, path: str, content: bytes, **options: Any) -> None:
        """Write an object; raises UnreachableError."""
        try:
            self._call(self.obstore.put, path, content, **options)
        except MissingObjectError as error:
            raise self._no_bucket(error) from error

    def put_if(self, path: str, content: bytes, version: Mapping[str, str] | None) -> None:
        """Write an object if it is still the one of a version, or is not there (None).

        Raises
        ------
        ConditionError : it is another one
        UnreachableError : it cannot be written
        """
        mode: Any = "create" if version is None else dict(version)
        try:
            self.put(path, content, mode=mode)
        except (self.obstore.exceptions.AlreadyExistsError, self.obstore.exceptions.PreconditionError) as error:
            raise ConditionError(path) from error

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects, also where somebody else has just done so; raises UnreachableError."""
        with suppress(MissingObjectError):
            self._call(self.obstore.delete, list(paths))

    def now(self) -> datetime:
        """Return the time by the clock of the bucket, which its objects' times are of; raises UnreachableError."""
        path = f".clock-{uuid.uuid4().hex}"
        self.put(path, b"")
        found: datetime = self._call(self.obstore.head, path)["last_modified"]
        self.delete([path])
        return found

    def _call(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Ask the bucket; whatever is wrong with it, but a missing object or a failed condition, is one line."""
        exceptions = self.obstore.exceptions
        problem: BaseException
        try:
            return function(self.store, *arguments, **options)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._no_bucket(MissingObjectError(first_line(error))) from error
            raise MissingObjectError(first_line(error)) from error
        except (exceptions.BaseError, OSError, ValueError) as error:
            problem = error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust, which is no Exception
                raise
            problem = error
        hint = "" if self.url.scheme != "s3" or "AWS_ACCESS_KEY_ID" in os.environ else "; AWS_ACCESS_KEY_ID is not set"
        raise UnreachableError(
            f"{self.url}: {first_line(problem)}{hint}. Check URL, credentials and network"
        ) from problem


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
            f"{option} {url}: must be like {url.scheme}://bucket/folder, without port, password, spaces, empty parts, "
            "'.', '..', and # ? % \\. Credentials and a server's address are variables, like AWS_ENDPOINT"
        )


def client_options() -> Any:
    """Return how patient the bucket's client is; and that servers of one's own, like MinIO, need no TLS.

    Raises
    ------
    SettingsError : a variable of the environment that no client can take
    """
    for name, value in os.environ.items():
        if name.startswith("AWS_") and not value.isprintable():
            raise SettingsError(f"{name}: holds a letter that cannot be printed, like a line break. Set it anew")
    endpoints = {name: os.environ[name] for name in _ENDPOINTS if name in os.environ}
    for name, value in endpoints.items():
        if not _ENDPOINT.fullmatch(value):
            raise SettingsError(f"{name}={value}: must be like http://host:9000 or https://host")
    is_plain = any(value.startswith("http://") for value in endpoints.values())
    return {"client_options": {**_TIMEOUTS, "allow_http": is_plain}, "retry_config": _RETRIES}


def first_line(error: BaseException) -> str:
    """Return what an error of obstore says to people: the server's status and message, or its own first line."""
    text = str(error)
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    message = re.search(r"<Message>([^<]*)</Message>", text)
    if status is not None:
        return f"{status[1].strip()}{': ' + message[1].strip().rstrip('.') if message else ''}"
    line = next((line for line in text.splitlines() if line.strip()), repr(error))
    line = re.sub(r"Generic \w+ error: | in [\d.]+\w*s, after \d+ retries.*?(?= - )", "", line)
    return re.sub(r"\s+", " ", line)[:300].rstrip(" .")
