"""URLs, and recordings behind URLs: which there are, and each as a temporary local file.

fsspec and obstore are loaded only where a URL is used.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from summer_prep.errors import RecordingError, SettingsError, SummerError, load_extra

BUCKETS = ("s3://", "gs://", "az://")

CLIENT: Any = {
    "client_options": {
        "connect_timeout": timedelta(seconds=10),
        "timeout": timedelta(minutes=5),
        "allow_http": True,  # for servers of your own, like MinIO
    },
    "retry_config": {"max_retries": 8, "retry_timeout": timedelta(seconds=60)},
}
"""Options of obstore's clients. Waits grow from 0.1 s twofold: about half a minute until an error is raised."""


class Url(str):
    """A URL that is put together and taken apart like a path."""

    __slots__ = ()

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self}/{name}")

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """The URL without its last part."""
        return Url(self.rpartition("/")[0])


Place = Path | Url


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than a path."""
    return re.fullmatch(r"[a-z][a-z0-9+.-]*://.+", text) is not None


@contextmanager
def reaching(url: Url, kind: type[SummerError]) -> Iterator[None]:
    """Raise any error of a client (no network, no permission, no such bucket, a bad URL) as one line of a kind."""
    try:
        yield
    except BaseException as error:  # a panic in obstore's Rust is no Exception
        if isinstance(error, (SummerError, KeyboardInterrupt, SystemExit)):
            raise
        text = re.sub(r"<[^>]*>", " ", str(error).partition("Debug source:")[0] or repr(error))
        is_anonymous = url.startswith("s3:") and "AWS_ACCESS_KEY_ID" not in os.environ
        problem = " ".join(text.split())[:500] + ("; AWS_ACCESS_KEY_ID is not set" if is_anonymous else "")
        raise kind(f"{url}: {problem}. Check URL, credentials and network") from error


def nwb_files_below(url: Url) -> list[Url]:
    """Return the NWB files below a URL, up to two folders deep; raises SettingsError if they cannot be listed."""
    with reaching(url, SettingsError):
        system, path = _file_system(url)
        system.ls(path, detail=False)  # for `find`, a server that does not answer is an empty folder
        # `find` drops the protocol and, on servers, resolves links: what is fetched later is spelt as the user did.
        names = sorted(name for name in system.find(path, maxdepth=3) if name.endswith(".nwb"))
        return [Url(name if "://" in name else system.unstrip_protocol(name)) for name in names]


def remote_identity(url: Url) -> dict[str, str] | None:
    """Return the size of a file behind a URL and what the server says about its version; None if it says nothing.

    Raises RecordingError if there is no such file, or the server does not answer.
    """
    with reaching(url, RecordingError):
        system, path = _file_system(url)
        facts = system.info(path)
        names = ["ETag", "e_tag", "etag", "md5", "checksum", "Last-Modified", "last_modified", "LastModified", "mtime"]
        validators = {name: str(facts[name]) for name in names if facts.get(name)}
        return {"url": str(url), "size": str(facts.get("size")), **validators} if validators else None


@contextmanager
def on_this_machine(path: Place) -> Iterator[Path]:
    """Yield a recording as a local file; one behind a URL is fetched into a temporary folder, or RecordingError."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="summer-") as folder:
        with reaching(path, RecordingError):
            system, path_there = _file_system(path)
            system.get_file(path_there, f"{folder}/{path.name}")
        yield Path(folder) / path.name


def _file_system(url: Url) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it."""
    fsspec = load_extra("fsspec", f"--data-dir {url}")
    options: dict[str, Any] = {}
    if url.startswith(BUCKETS):
        load_extra("obstore.fsspec", f"--data-dir {url}").register(["s3", "gs", "az"])
        options = CLIENT
    elif url.startswith("http"):
        aiohttp = load_extra("aiohttp", f"--data-dir {url}")
        options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=10, sock_read=60)}}
    system, path = fsspec.core.url_to_fs(url, **options)
    return system, path
