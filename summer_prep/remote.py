"""Recordings behind URLs: which there are, and each as a local file for as long as it is read.

Whoever has them in a folder needs no fsspec: it is loaded here alone.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from summer_prep.errors import RecordingError, SettingsError
from summer_prep.extras import load_extra
from summer_prep.objects import SCHEMES, check_bucket_url, client_options, first_line
from summer_prep.places import Url

_DEPTH = 3
_ATTEMPTS = 3
_VALIDATORS = ("ETag", "e_tag", "etag", "md5", "checksum", "Last-Modified", "last_modified", "LastModified", "mtime")


def nwb_files_below(url: Url) -> list[Url]:
    """Return the NWB files below a URL, up to two folders deep.

    Raises
    ------
    SettingsError : no such protocol, the extra is missing, or the server cannot be asked
    """
    system, path = _file_system(url)
    try:
        system.ls(path, detail=False)  # `find` takes a server that does not answer for an empty folder
        found = system.find(path, maxdepth=_DEPTH)
    except Exception as error:  # whatever the protocol's library raises
        raise SettingsError(f"--data-dir {url}: cannot be listed ({first_line(error)}). Check the URL") from error
    # `find` drops the protocol and, on servers, resolves links: what is asked for later is spelt as the user did.
    names = sorted(name for name in found if name.endswith(".nwb"))
    return [Url(name if "://" in name else system.unstrip_protocol(name)) for name in names]


def remote_identity(url: Url) -> dict[str, str] | None:
    """Return what tells a file behind a URL from a changed one: its size, and what the server says of its version.

    None where the server says nothing that would change with the content.

    Raises
    ------
    RecordingError : there is no such file, or the server cannot be asked
    """
    system, path = _file_system(url)
    try:
        told = system.info(path)
    except Exception as error:
        raise RecordingError(f"{url}: cannot be read ({first_line(error)}). Check --data-dir") from error
    validators = {name: str(told[name]) for name in _VALIDATORS if told.get(name)}
    return {"url": str(url), "size": str(told.get("size")), **validators} if validators else None


@contextmanager
def downloaded(url: Url) -> Iterator[Path]:
    """Yield a recording as a local file of the same name, which is removed at the end.

    Raises
    ------
    RecordingError : it cannot be fetched, or does not arrive whole
    """
    system, path = _file_system(url)
    with tempfile.TemporaryDirectory(prefix="summer-") as folder:
        to = Path(folder) / url.name
        for attempt in range(_ATTEMPTS):
            try:
                n_bytes = system.info(path).get("size")
                system.get_file(path, str(to))
                if n_bytes is None or to.stat().st_size == n_bytes:
                    break
                problem = f"{to.stat().st_size} of {n_bytes} bytes arrived"
            except Exception as error:
                problem = first_line(error)
            if attempt + 1 == _ATTEMPTS:
                raise RecordingError(f"{url}: cannot be fetched ({problem}). Check network and disk, and build again")
        yield to


def _file_system(url: Url) -> tuple[Any, str]:
    fsspec = load_extra("fsspec", f"--data-dir {url}")
    try:
        options = {}
        if url.scheme in SCHEMES:
            check_bucket_url(url, "--data-dir")
            load_extra("obstore.fsspec", f"--data-dir {url}").register(list(SCHEMES))
            options = client_options()
        elif url.scheme in ("http", "https"):
            aiohttp = load_extra("aiohttp", f"--data-dir {url}")
            options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=10, sock_read=60)}}
        system, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise SettingsError(
            f"--data-dir {url}: {first_line(error)}. Name a folder, or a URL that fsspec knows, like s3:// or https://"
        ) from error
    return system, path
