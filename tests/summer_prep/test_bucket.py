"""The cache in a bucket, on a real S3 server: whole keys or none, whatever becomes of network, server and builders."""

import json
import os
import pickle
import random
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import yaml
import zarr

import summer_prep
import summer_train
from summer_prep.cache.bucket import BucketCache, remove_copies
from summer_prep.cache.fresh import cache_states
from summer_prep.cache.keys import default_local_cache, facts_of_keys, open_cache
from summer_prep.cache.layout import DESCRIPTION, describe, key_path, sealed
from summer_prep.cache.write import verify_key
from summer_prep.errors import CacheError, MissingKeyError, SettingsError, SummerError, UnreachableError
from summer_prep.options import as_place
from summer_prep.urls import CLIENT, Url
from tests.s3 import kill

obstore = pytest.importorskip("obstore", reason="caches in buckets need: pip install obstore fsspec[http]")

ROOT = Path(__file__).parents[2]
IMPATIENT = {"max_retries": 1, "retry_timeout": timedelta(seconds=1)}
POINTER = "keys/sub-14/bin-1000ms.json"
pytestmark = pytest.mark.xdist_group("bucket")  # one server for all


@pytest.fixture
def cache(bucket, tmp_path):
    return BucketCache(bucket, tmp_path / "local")


@pytest.fixture
def impatient(bucket, tmp_path, monkeypatch):
    monkeypatch.setitem(CLIENT, "retry_config", IMPATIENT)
    return BucketCache(bucket, tmp_path / "impatient")


@pytest.fixture
def store(bucket):
    return obstore.store.from_url(bucket, client_options={"allow_http": True})


def files_of(key):
    return {path.relative_to(key).as_posix(): path.read_bytes() for path in key.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def versions(demo_dir, tmp_path_factory):
    """Two keys of one patient and bin length with other bytes: the files of each."""
    found = []
    for codec in ("none", "zstd"):
        folder = tmp_path_factory.mktemp("versions")
        summer_prep.build(data_dir=demo_dir, cache_dir=folder, patient_ids=14, bin_length=1000, codec=codec, workers=0)
        found.append(files_of(key_path(folder, "14", 1000)))
    return found


def publish(cache, files):
    cache.publish("14", 1000, files)


def stands(cache):
    """The files of the key as a reader on another machine gets them; None if there is no key."""
    try:
        there = BucketCache(cache.place, cache.local_cache / f"reader-{uuid.uuid4().hex}").fetch("14", 1000)
    except MissingKeyError:
        return None
    assert not verify_key(there.folder)
    return files_of(there.folder)


def one_byte_changed(content):
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


def test_keys_in_a_bucket_are_those_of_a_folder(bucket, demo_dir, demo_cache, tmp_path):
    places = {"data_dir": demo_dir, "cache_dir": str(bucket), "local_cache": tmp_path / "local"}
    options = {**places, "patient_ids": [20, 8], "bin_length": [80, 1000]}
    assert [result.state for result in summer_prep.build(**options, workers=2)] == ["built"] * 4
    assert [result.state for result in summer_prep.build(**options, workers=0)] == ["fresh"] * 4
    cache = open_cache(bucket, tmp_path / "local")
    assert cache.keys() == {"8": [80, 1000], "20": [80, 1000]}
    assert cache.bin_lengths("20") == [80, 1000]
    for patient_id, length in (("8", 80), ("20", 1000)):
        assert not cache.verify(patient_id, length)
        expected = key_path(demo_cache, patient_id, length)
        assert files_of(cache.fetch(patient_id, length).folder) == files_of(expected)


def test_commands_work_on_a_bucket(bucket, ask, demo_dir, demo_cache, tmp_path):
    places = "--cache-dir", bucket
    options = "--data-dir", demo_dir, "--patient-ids", "14 20", "--bin-length", "80", "--workers", "1"
    assert ask("build", *places, *options)[0] == 0
    states = json.loads(ask("status", *places, "--data-dir", demo_dir, "--json")[1])
    assert {row["patient_id"]: row["state"] for row in states} == {
        "8": "missing", "14": "fresh", "20": "fresh", "29": "missing",
    }  # fmt: skip
    assert [row["patient_id"] for row in json.loads(ask("inspect", *places, "--json")[1])] == ["14", "20"]
    shown = ask("inspect", "14", *places, "--picture", tmp_path / "14.png", "--json")[1]
    assert json.loads(shown)["n_units"] == 10
    assert (tmp_path / "14.png").exists()
    assert "2 keys verified" in ask("verify", *places)[1]
    assert ask("diff", bucket, demo_cache, "--json")[0] == 1
    assert ask("diff", bucket / "sub-14" / "bin-80ms.zarr", key_path(demo_cache, "14", 80))[0] == 0
    assert json.loads(ask("gc", *places, "--json")[1]) == []
    assert "nothing to collect" in ask("gc", "--cache-dir", tmp_path)[2]
    assert "removed 2 copies" in ask("remove-copies")[2]


def test_training_works_on_a_bucket(bucket, cache, ask, demo_cache, tmp_path):
    for patient_id in ("14", "20"):
        cache.publish(patient_id, 80, files_of(key_path(demo_cache, patient_id, 80)))
    options = {"data_dir": tmp_path, "patient_ids": [14, 20], "buffer": 10}
    places = {"there": str(bucket), "here": demo_cache}
    there, here = (
        summer_train.fit(**options, cache_dir=place, output_dir=tmp_path / name, max_epochs=2)
        for name, place in places.items()
    )
    assert there.scores["model"] == here.scores["model"]
    (settings,) = (tmp_path / "there").rglob("hparams.yaml")
    assert yaml.safe_load(settings.read_text())["cache_dir"] == str(bucket)
    assert "removed 2 copies" in ask("remove-copies")[2]
    evaluated = summer_train.evaluate(settings.parent)
    assert evaluated.scores["model"]["test"]["loss"] == pytest.approx(here.scores["model"]["test"]["loss"], abs=1e-9)
    options = {"data_dir": tmp_path, "output_dir": tmp_path / "study", "max_epochs": 1, "workers": 1, "buffer": 10}
    study = summer_train.study(**options, cache_dir=str(bucket), patient_ids=[[14], [20]], label_name="summer")
    assert len(study.rows) == 2


def test_zarr_and_xarray_read_a_key_in_place(cache, demo_cache):
    xarray = pytest.importorskip("xarray")
    key = key_path(demo_cache, "14", 80)
    cache.publish("14", 80, files_of(key))
    expected = zarr.open_group(key, mode="r")
    group = summer_prep.open_key(str(cache.place), 14, 80)
    np.testing.assert_array_equal(group["spike_counts"][:], expected["spike_counts"][:])
    with xarray.open_zarr(cache.zarr_store(cache.describe("14", 80)), chunks=None) as dataset:
        np.testing.assert_array_equal(dataset.spike_counts, expected["spike_counts"][:])
        assert "brain_region" in dataset.coords


def test_a_key_is_fetched_once_for_each_content_it_has(cache, faults, versions):
    publish(cache, versions[0])
    other = BucketCache(cache.place, cache.local_cache)
    faults.set(lambda method, _path, number: "slow" if method == "GET" and number % 9 == 0 else None)
    with ThreadPoolExecutor(2) as pool:  # two at once do not meet
        first, same = (one.result() for one in [pool.submit(each.fetch, "14", 1000) for each in (cache, other)])
    assert files_of(first.folder) == files_of(same.folder) == versions[0]
    assert faults.counts["GET"] >= len(versions[0])
    assert not list(cache.local_cache.rglob("*.staging"))
    kept = cache.fetch("14", 1000)  # of the two the one that came last
    for _ in range(2):  # a rebuild that gives the same bytes changes nothing
        faults.clear()
        assert cache.fetch("14", 1000) == kept
        assert faults.counts["GET"] == 2  # the pointer, and the description
        publish(cache, versions[0])
    publish(cache, versions[1])
    assert files_of(cache.fetch("14", 1000).folder) == versions[1]
    assert files_of(first.folder) == versions[0]  # as long as somebody maps it
    assert len(remove_copies(cache.local_cache)) == 2
    assert not first.folder.exists()


@pytest.mark.parametrize("content", [b"short", None], ids=["cut short", "one byte changed"])
def test_a_damaged_copy_is_fetched_again_and_one_that_cannot_be_written_is_one_line(content, cache, versions, tmp_path):
    publish(cache, versions[0])
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CacheError, match=r"cannot be written \(.*--local-cache"):
        BucketCache(cache.place, tmp_path / "file").fetch("14", 1000)
    copied = cache.fetch("14", 1000).folder / "spike_counts" / "c" / "0" / "0"
    copied.write_bytes(content or one_byte_changed(copied.read_bytes()))
    fetched = cache.fetch("14", 1000, every_byte=content is None)
    assert files_of(fetched.folder) == versions[0]
    assert [path.name for path in fetched.folder.parent.iterdir()] == [fetched.folder.name]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("spike_counts/c/0/0", one_byte_changed),
        ("spike_counts/c/0/0", lambda _content: b""),
        ("spike_counts/c/0/0", None),
        (DESCRIPTION, one_byte_changed),
        (DESCRIPTION, None),
    ],
    ids=["byte", "emptied", "missing", "description", "no description"],
)
def test_changed_and_missing_objects_are_found_on_arrival_and_by_verify(name, change, cache, store, versions):
    publish(cache, versions[0])
    path = f"{cache.pointer('14', 1000).data}/{name}"
    obstore.put(store, path, change(versions[0][name])) if change else obstore.delete(store, path)
    with pytest.raises(CacheError, match=f"{name}: .*(missing|changed).* Rebuild it: summer-prep build --force"):
        cache.fetch("14", 1000)
    (problem,) = cache.verify("14", 1000)
    assert name in problem
    assert "Rebuild it: summer-prep build --force --patient-ids 14" in problem
    assert not list(cache.local_cache.rglob("bin-*"))
    publish(cache, versions[1])
    assert stands(cache) == versions[1]


@pytest.mark.parametrize("outside", ["../../../outside", "/tmp/outside"])
def test_a_key_that_lists_files_outside_of_itself_is_refused(outside, cache, versions, tmp_path):
    document = json.loads(versions[0][DESCRIPTION])
    document["attributes"]["files"][outside] = {"bytes": 0, "sha256": "x"}
    publish(cache, {**versions[0], DESCRIPTION: sealed(json.dumps(document).encode())})
    with pytest.raises(SummerError, match="path segment"):
        cache.fetch("14", 1000)
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize("content", [
    b"no JSON", b"\xff", b"{}", b'{"format": 2}',
    b'{"format": 1, "data": "data/sub-14/bin-1000ms/../../../x.zarr", "sha256": "%s"}' % (b"0" * 64),
    b'{"format": 1, "data": "data/sub-15/bin-1000ms/0123456789abcdef-0123456789ab.zarr", "sha256": "%s"}' % (b"0" * 64),
])  # fmt: skip
def test_a_damaged_pointer_is_reported_and_repaired_by_a_build(content, cache, store, versions):
    publish(cache, versions[0])
    obstore.put(store, POINTER, content)
    with pytest.raises(CacheError, match=r"is no pointer to this key.*Rebuild it: summer-prep build --force"):
        cache.fetch("14", 1000)
    # What it named before may still be the key: nothing is taken for garbage.
    with pytest.raises(CacheError, match="is no pointer to this key"):
        cache.collect_garbage(now=datetime.now(UTC) + timedelta(days=2))
    publish(cache, versions[1])
    assert stands(cache) == versions[1]


PUBLISHER = """
import pickle, sys
from pathlib import Path
from summer_prep.cache.bucket import BucketCache
from summer_prep.urls import Url
files = pickle.loads(Path(sys.argv[2]).read_bytes())
BucketCache(Url(sys.argv[1]), Path(sys.argv[3])).publish("14", 1000, files)
"""


def start_publisher(cache, files, folder):
    (folder / "files").write_bytes(pickle.dumps(files))
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, cache.place, folder / "files", folder / "builder"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("put", "is_rebuild"),
    [(1, True), ("last but one", False), ("pointer", False), ("pointer", True), ("pointer, answer lost", True)],
)
def test_a_builder_killed_between_puts_leaves_the_old_key_or_the_new_one(
    put, is_rebuild, cache, faults, versions, tmp_path
):
    old, new = versions
    if is_rebuild:
        publish(cache, old)
    number = {1: 1, "last but one": len(new)}.get(put, len(new) + 1)
    builder = []

    def kill_at(method, _path, count):
        if method == "PUT" and count == number:
            if put == "pointer, answer lost":
                return "lost"
            kill(builder[0].pid)
            return "unheard"
        return None

    faults.set(kill_at)
    builder.append(start_publisher(cache, new, tmp_path))
    code = builder[0].wait()
    faults.clear()
    is_lost = put == "pointer, answer lost"  # which is written once more
    assert code == (0 if is_lost else -9)
    assert stands(cache) == (new if is_lost else old if is_rebuild else None)
    publish(cache, new)
    assert stands(cache) == new


@pytest.mark.parametrize("fault", ["503", "slow", "cut", "lost", "unheard"])
def test_passing_faults_are_not_noticed(fault, cache, faults, versions):
    chance = random.Random(0)
    faults.set(lambda *_: fault if chance.random() < 0.15 else None)
    for files in versions:
        publish(cache, files)
        assert stands(cache) == files


@pytest.mark.parametrize(("fault", "words"), [("503", "503"), ("unheard", "HTTP error"), ("403", "403.*AccessDenied")])
def test_lasting_faults_are_one_line_and_change_nothing(
    fault, words, cache, impatient, faults, versions, demo_dir, tmp_path
):
    old, new = versions
    publish(cache, old)
    faults.set(lambda method, _path, number: fault if method == "PUT" and number > 5 else None)
    with pytest.raises(UnreachableError, match=f"{words}.* Check URL, credentials and network") as caught:
        publish(impatient, new)
    assert "\n" not in str(caught.value)
    faults.clear()
    assert stands(cache) == old
    # In a build, one key that cannot be uploaded fails alone.
    faults.set(lambda method, path, _number: fault if method == "PUT" and "bin-80ms" in path else None)
    options = {"data_dir": demo_dir, "cache_dir": str(cache.place), "patient_ids": 14, "workers": 0}
    results = summer_prep.build(**options, bin_length=[80, 200], local_cache=tmp_path)
    assert {result.bin_length_ms: result.state for result in results} == {80: "failed", 200: "built"}


def test_a_bucket_that_cannot_be_asked_has_no_damaged_and_no_stale_key(impatient, faults, versions, demo_dir, ask):
    publish(impatient, versions[0])
    faults.set(lambda method, path, _number: "403" if "keys/sub-14/bin" in path and method == "GET" else None)
    with pytest.raises(UnreachableError, match="403"):
        cache_states(demo_dir, impatient, ["14"], [1000])
    with pytest.raises(UnreachableError, match="403"):
        impatient.verify("14", 1000)
    (found,) = facts_of_keys(impatient, [("14", 1000)])
    assert isinstance(found, UnreachableError)
    for command in ("inspect", "verify"):
        code, _, said = ask(command, "--cache-dir", impatient.place)
        assert (code, said.count("\n")) == (1, 1)
        assert "damaged" not in said
        assert "403" in said


def test_builders_side_by_side_cannot_mix(cache, versions, tmp_path):
    caches = [BucketCache(cache.place, tmp_path / str(number)) for number in range(4)]
    with ThreadPoolExecutor(5) as pool:
        builders = [
            pool.submit(lambda one=one, number=number: [publish(one, versions[number % 2]) for _ in range(3)])
            for number, one in enumerate(caches)
        ]
        seen = []
        while not all(builder.done() for builder in builders):
            seen.append(stands(cache))
        for builder in builders:
            builder.result()
    assert all(files in (None, *versions) for files in seen)
    assert stands(cache) in versions


def test_garbage_is_removed_a_day_after_it_was_replaced(cache, faults, store, versions):
    publish(cache, versions[0])
    old = cache.pointer("14", 1000).data
    publish(cache, versions[1])
    unfinished = "data/sub-14/bin-80ms/0123456789abcdef-0123456789ab.zarr"
    obstore.put(store, f"{unfinished}/zarr.json", b"{}")
    # Whatever else people keep below the same prefix is theirs.
    others = [
        "data/sub-14.nwb", "data/sub-14/sub-14_ecephys.nwb", "data/sub-14/bin-80ms/notes/a.txt", "data/x/y/z/a/b",
        "data/sub-14/bin-80ms/0123456789abcdef-0123456789ab.zarr.zip", "keys/readme.txt", "readme.txt",
    ]  # fmt: skip
    for path in others:
        obstore.put(store, path, b"mine")
    now = datetime.now(UTC)
    assert cache.collect_garbage() == cache.collect_garbage(now=now + timedelta(hours=23)) == []
    later = now + timedelta(hours=25)
    faults.clear()
    assert set(cache.collect_garbage(may_remove=False, now=later)) == {cache.place / old, cache.place / unfinished}
    assert set(faults.counts) == {"GET"}  # a dry run writes nothing
    assert set(cache.collect_garbage(now=later)) == {cache.place / old, cache.place / unfinished}
    assert cache.collect_garbage(now=later) == []
    assert stands(cache) == versions[1]
    assert [bytes(obstore.get(store, path).bytes()) for path in others] == [b"mine"] * len(others)


@pytest.mark.parametrize(
    ("option", "url", "message"),
    [
        ("cache_dir", "ftp://host/prefix", "can be a folder, or in a bucket at s3://, gs://, az://"),
        ("cache_dir", "s3://no-such-bucket/x", "NoSuchBucket"),
        ("cache_dir", "az://container/x", "Account must be specified"),
        ("cache_dir", "s3://bucket//a", "empty path segment"),
        ("data_dir", "nope://x/y", "nope"),
        ("data_dir", "s3://no-such-bucket/x", "NoSuchBucket"),
        ("data_dir", "http://127.0.0.1:1/x", "127.0.0.1"),
        ("data_dir", "s3:/lab/x", "looks like a URL"),
        ("data_dir", "simplecache::http://host/x", "looks like a URL"),
    ],
)
def test_wrong_urls_are_one_line(option, url, message, bucket, demo_dir, tmp_path):
    options = {"data_dir": demo_dir, "cache_dir": tmp_path / "cache", "local_cache": tmp_path, "workers": 0}
    with pytest.raises(SummerError, match=f"{url}.*{message}") as caught:
        summer_prep.build(**{**options, option: url})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_ENDPOINT", "localhost:9000"), ("AWS_ENDPOINT_URL_S3", "ftp://x"), ("AWS_REGION", "a\nb")]
)
def test_variables_that_no_client_takes_and_a_missing_client_are_one_line(name, value, bucket, tmp_path, monkeypatch):
    """Some of them end in a panic of the client's Rust, which is no Exception."""
    monkeypatch.setitem(CLIENT, "retry_config", IMPATIENT)
    if name != "AWS_REGION":
        monkeypatch.delenv("AWS_ENDPOINT")
    monkeypatch.setenv(name, value)
    with pytest.raises(UnreachableError, match="Check URL, credentials and network"):
        open_cache(bucket, tmp_path).keys()
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SettingsError, match="pip install obstore"):
        open_cache(bucket, tmp_path)


def test_recordings_behind_urls_build_the_same_keys(bucket, faults, demo_dir, demo_cache, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    recordings = bucket / "recordings"
    store = obstore.store.from_url(recordings, client_options={"allow_http": True})
    for path in demo_dir.rglob("*.nwb"):
        obstore.put(store, path.relative_to(demo_dir).as_posix(), path.read_bytes())

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(demo_dir)))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    Thread(target=server.serve_forever, daemon=True).start()
    with server:
        for number, url in enumerate((recordings, f"http://127.0.0.1:{server.server_port}")):
            cache_dir = tmp_path / str(number)
            options = {"data_dir": str(url), "cache_dir": cache_dir, "bin_length": [80, 1000], "workers": 0}
            results = summer_prep.build(**options)
            assert [result.state for result in results] == ["built"] * 8, results
            for patient_id in ("8", "14", "20", "29"):
                keys = (key_path(folder, patient_id, 80) for folder in (cache_dir, demo_cache))
                assert len({describe(key).attributes["document_sha256"] for key in keys}) == 1
            assert [result.state for result in summer_prep.build(**options)] == ["fresh"] * 8
        server.shutdown()
    assert not list((tmp_path / "temporary").glob("summer-*"))
    # A recording that changes is built anew; one that is damaged is named by its URL; no other one is fetched again.
    obstore.put(store, "sub-14/sub-14_ses-sub14_ecephys.nwb", b"no HDF5")
    other = summer_prep.demo_data(tmp_path / "other", patient_ids="20", minutes=2, units=3)[0]
    obstore.put(store, "sub-20/sub-20_ses-sub20_ecephys.nwb", other.read_bytes())
    fetched = []
    faults.set(lambda method, path, _number: fetched.append(path) if method == "GET" and "nwb" in path else None)
    results = summer_prep.build(data_dir=str(recordings), cache_dir=tmp_path / "0", bin_length=80, workers=0)
    (failed,) = [result for result in results if result.state == "failed"]
    assert failed.message.startswith(f"{recordings}/sub-14/sub-14_ses-sub14_ecephys.nwb: ")
    assert {result.patient_id: result.state for result in results} == {
        "8": "fresh", "14": "failed", "20": "built", "29": "fresh",
    }  # fmt: skip
    assert all("sub-14" in path or "sub-20" in path for path in fetched if path.endswith(".nwb"))
    assert fetched


@pytest.mark.parametrize("place", ["s3:/lab/x", "S3:", Path("s3://lab/x"), "http:/host/x", "a::b"])
def test_a_misspelt_url_is_no_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="looks like a URL"):
        summer_prep.build(data_dir=tmp_path, cache_dir=place)
    assert as_place("S3://lab/x", "--cache-dir") == Url("s3://lab/x")
    monkeypatch.setenv("SUMMER_LOCAL_CACHE", str(place))
    with pytest.raises(SettingsError, match="SUMMER_LOCAL_CACHE .*looks like a URL"):
        default_local_cache()
