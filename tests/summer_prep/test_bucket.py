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
from summer_prep import copies, objects
from summer_prep.bucket import BucketCache
from summer_prep.caches import check_cache, default_local_cache, open_cache
from summer_prep.errors import CacheError, MissingKeyError, SettingsError, UnreachableError
from summer_prep.freshness import cache_states
from summer_prep.key import DESCRIPTION, describe, key_path, sealed
from summer_prep.places import Url
from summer_prep.store import verify_key
from summer_prep.values import as_place
from tests.conftest import error_line
from tests.s3 import kill

obstore = pytest.importorskip("obstore", reason="caches in buckets need: pip install obstore fsspec[http]")

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("bucket")  # one server for all


@pytest.fixture
def cache(bucket, tmp_path):
    return BucketCache(bucket, tmp_path / "local")


def files_of(key):
    return {
        path.relative_to(key).as_posix(): path.read_bytes() for path in key.rglob("*") if path.is_file()
    }  # fmt: skip


def digests_of(files):
    import hashlib

    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


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
    cache.publish("14", 1000, files, digests_of(files))


def stands(cache):
    """The files of the key as a reader on another machine gets them; None if there is no key."""
    try:
        there = BucketCache(cache.url, cache.folder.parent / f"reader-{uuid.uuid4().hex}").fetch("14", 1000)
    except MissingKeyError:
        return None
    assert not verify_key(there.folder)
    return files_of(there.folder)


def test_keys_in_a_bucket_are_those_of_a_folder(bucket, demo_dir, demo_cache, tmp_path):
    places = {"data_dir": demo_dir, "cache_dir": str(bucket), "local_cache": tmp_path / "local"}
    options = {**places, "patient_ids": [20, 8], "bin_length": [80, 1000]}
    results = summer_prep.build(**options, workers=2)
    assert [result.state for result in results] == ["built"] * 4
    assert [result.state for result in summer_prep.build(**options, workers=0)] == ["fresh"] * 4
    cache = open_cache(bucket, tmp_path / "local")
    assert cache.keys() == {"8": [80, 1000], "20": [80, 1000]}
    assert cache.bin_lengths("20") == [80, 1000]
    for patient_id, length in (("8", 80), ("20", 1000)):
        assert not cache.verify(patient_id, length)
        expected = key_path(demo_cache, patient_id, length)
        assert files_of(cache.fetch(patient_id, length).folder) == files_of(expected)


def test_commands_work_on_a_bucket(bucket, run, demo_dir, demo_cache, tmp_path):
    places = "--cache-dir", bucket
    built = run("summer_prep", "build", *places, "--data-dir", demo_dir, "--patient-ids", "14 20", "--bin-length", "80")
    assert built.returncode == 0, built.stderr
    states = run("summer_prep", "status", *places, "--data-dir", demo_dir, "--json")
    assert {row["patient_id"]: row["state"] for row in json.loads(states.stdout)} == {
        "8": "missing", "14": "fresh", "20": "fresh", "29": "missing",
    }  # fmt: skip
    assert [row["patient_id"] for row in json.loads(run("summer_prep", "inspect", *places, "--json").stdout)] == [
        "14",
        "20",
    ]
    shown = run("summer_prep", "inspect", "14", *places, "--picture", tmp_path / "14.png", "--json")
    assert json.loads(shown.stdout)["n_units"] == 10, shown.stderr
    assert (tmp_path / "14.png").exists()
    assert "2 keys verified" in run("summer_prep", "verify", *places).stdout
    assert "removed the data of 0" in run("summer_prep", "gc", *places).stderr
    common = "--patient-ids", "14 20", "--buffer", "10", "--max-epochs", "2", "--json"
    fitted = run("summer_train", "fit", "--cache-dir", bucket, "--data-dir", "none", *common, cwd=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    scores = json.loads(fitted.stdout)["scores"]
    here = summer_train.fit(
        cache_dir=demo_cache, data_dir=tmp_path, output_dir=tmp_path / "here", patient_ids=[14, 20], buffer=10,
        max_epochs=2,
    )  # fmt: skip
    assert scores["model"] == here.scores["model"]
    settings = yaml.safe_load((tmp_path / "lightning_logs/dhv/version_0/hparams.yaml").read_text())
    assert settings["cache_dir"] == str(bucket)
    evaluated = run("summer_train", "evaluate", "lightning_logs/dhv/version_0", "--json", cwd=tmp_path)
    assert json.loads(evaluated.stdout)["scores"]["model"]["test"]["loss"] == pytest.approx(
        scores["model"]["test"]["loss"], abs=1e-9
    )
    # A study on processes of its own, each of which opens the bucket's keys from this machine.
    studied = run(
        "summer_train", "study", "--cache-dir", bucket, "--data-dir", "none", "--patient-ids", "14;20",
        "--buffer", "10", "--label-name", "summer", "--max-epochs", "1", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert len(json.loads(studied.stdout)) == 2, studied.stderr


def test_zarr_and_xarray_read_a_key_in_place(cache, demo_cache):
    xarray = pytest.importorskip("xarray")
    key = key_path(demo_cache, "14", 80)
    files = files_of(key)
    cache.publish("14", 80, files, digests_of(files))
    expected = zarr.open_group(key, mode="r")
    group = summer_prep.open_key(str(cache.url), 14, 80)
    np.testing.assert_array_equal(group["spike_counts"][:], expected["spike_counts"][:])
    data = cache.describe("14", 80).identity.data
    store = obstore.store.from_url(f"{cache.url}/{data}", client_options={"allow_http": True})
    with xarray.open_zarr(zarr.storage.ObjectStore(store, read_only=True), chunks=None) as dataset:
        np.testing.assert_array_equal(dataset.spike_counts, expected["spike_counts"][:])
        assert "brain_region" in dataset.coords


def test_a_key_is_fetched_once_and_again_when_it_changes(cache, faults, versions):
    publish(cache, versions[0])
    faults.set(lambda *_: None)
    first = cache.fetch("14", 1000)
    n_requests = sum(faults.counts.values())
    assert n_requests >= len(versions[0])
    assert cache.fetch("14", 1000).attributes == first.attributes
    assert sum(faults.counts.values()) == n_requests + 1  # the pointer
    publish(cache, versions[1])
    assert files_of(cache.fetch("14", 1000).folder) == versions[1]
    assert [path.name for path in first.folder.parent.glob(".*.partial")] == []
    (first.folder / "spike_counts" / "c" / "0" / "0").write_bytes(b"short")
    assert files_of(cache.fetch("14", 1000).folder) == versions[1]


def test_a_fetch_that_was_cut_goes_on(cache, faults, versions, monkeypatch):
    publish(cache, versions[0])
    asked = []

    def cut_later(method, path, number):
        asked.append(path)
        return "403" if method == "GET" and number > 12 else None

    faults.set(cut_later)
    with pytest.raises(CacheError, match="403"):
        cache.fetch("14", 1000)
    assert not key_path(cache.folder, "14", 1000).exists()
    (partial,) = key_path(cache.folder, "14", 1000).parent.glob(".*.partial")
    done = {name for name, content in files_of(partial).items() if content == versions[0][name]}
    assert done
    # What was left may be damaged, or cut in the middle.
    largest = max(versions[0], key=lambda name: len(versions[0][name]))
    (partial / largest).parent.mkdir(parents=True, exist_ok=True)
    (partial / largest).write_bytes(versions[0][largest][:100])
    damaged = next(name for name in sorted(done - {largest}) if len(versions[0][name]) > 1)
    (partial / damaged).write_bytes(b"x" * len(versions[0][damaged]))
    asked.clear()
    faults.set(lambda method, path, number: asked.append(path))
    assert files_of(cache.fetch("14", 1000).folder) == versions[0]
    assert not [path for path in asked if any(path.endswith(f".zarr/{name}") for name in done - {largest, damaged})]


def test_a_damaged_copy_is_fetched_again_where_every_byte_counts(cache, versions):
    publish(cache, versions[0])
    copied = cache.fetch("14", 1000).folder / "spike_counts" / "c" / "0" / "0"
    content = bytearray(copied.read_bytes())
    content[0] ^= 1
    copied.write_bytes(content)
    assert files_of(cache.fetch("14", 1000, every_byte=True).folder) == versions[0]


def test_an_emptied_object_is_found(cache, versions):
    publish(cache, versions[0])
    cache.objects.put(f"{cache.pointer('14', 1000).data}/spike_counts/c/0/0", b"")
    with pytest.raises(CacheError, match="spike_counts/c/0/0: its bytes were changed.*Rebuild it"):
        cache.fetch("14", 1000)


@pytest.mark.parametrize("name", ["spike_counts/c/0/0", DESCRIPTION])
def test_a_changed_byte_is_found(name, cache, versions):
    publish(cache, versions[0])
    path = f"{cache.pointer('14', 1000).data}/{name}"
    content = bytearray(versions[0][name])
    content[len(content) // 2] ^= 1
    obstore.put(cache.objects.store, path, bytes(content))
    with pytest.raises(CacheError, match=f"{name.rpartition('/')[2]}.*changed"):
        cache.fetch("14", 1000)
    (problem,) = cache.verify("14", 1000)
    assert "changed" in problem
    assert "Rebuild it: summer-prep build --force --patient-ids 14" in problem
    assert not key_path(cache.folder, "14", 1000).exists()


def with_files(files, change):
    """A key's files, of which its description says something else."""
    document = json.loads(files[DESCRIPTION])
    change(document["attributes"])
    return {**files, DESCRIPTION: sealed(json.dumps(document).encode())}


def test_a_key_that_names_files_elsewhere_is_refused(cache, versions, tmp_path):
    outside = {"../../../outside": {"bytes": 1, "sha256": "x"}}
    publish(cache, with_files(versions[0], lambda attributes: attributes["files"].update(outside)))
    with pytest.raises(CacheError, match="its list of files is damaged, at '../../../outside'"):
        cache.fetch("14", 1000)
    assert not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize(
    "files",
    [
        None,
        ["a"],
        {"a\0b": {"bytes": 1, "sha256": "x"}},
        {"/etc/passwd": {"bytes": 1, "sha256": "x"}},
        {"a": 1},
        {"a": {"bytes": -1, "sha256": "x"}},
        {"a": {"bytes": "1", "sha256": "x"}},
        {"a": {"bytes": 1}},
    ],
)
def test_a_damaged_list_of_files_is_one_line(files, cache, versions):
    publish(cache, with_files(versions[0], lambda attributes: attributes.update(files=files)))
    with pytest.raises(CacheError, match="its list of files is damaged"):
        cache.fetch("14", 1000)
    (problem,) = cache.verify("14", 1000)
    assert "its list of files is damaged" in problem


@pytest.mark.parametrize("change", [
    "no JSON", b"\xff", "{}", "[1]", {"format": 2}, {"data": "data/sub-14/bin-1000ms/../../../x.zarr"}, {"data": 5},
    {"data": "data/sub-15/bin-1000ms/0123456789abcdef-0123456789ab.zarr"}, {"sha256": 5}, {"sha256": "../x"},
])  # fmt: skip
def test_a_damaged_pointer_is_told_and_repaired_by_a_build(change, cache, versions):
    publish(cache, versions[0])
    path = "keys/sub-14/bin-1000ms.json"
    content = json.loads(cache.objects.get(path)) | change if isinstance(change, dict) else change
    content = json.dumps(content) if isinstance(content, dict) else content
    cache.objects.put(path, content.encode() if isinstance(content, str) else content)
    with pytest.raises(CacheError, match=r"is no pointer to a key .*Rebuild it: summer-prep build --force"):
        cache.fetch("14", 1000)
    # What it named before may still be the key: nothing of it is taken for garbage.
    removed, (problem,) = cache.collect_garbage(now=datetime.now(UTC) + timedelta(hours=2))
    assert not removed
    assert "is no pointer" in problem
    publish(cache, versions[1])
    assert stands(cache) == versions[1]


def test_missing_and_foreign_objects_are_found(cache, versions):
    publish(cache, versions[0])
    data = cache.pointer("14", 1000).data
    obstore.put(cache.objects.store, f"{data}/stranger", b"x")
    assert "stranger: does not belong there" in cache.verify("14", 1000)[0]
    obstore.delete(cache.objects.store, f"{data}/unit_id/c/0")
    assert any("unit_id/c/0: the object is missing" in problem for problem in cache.verify("14", 1000))
    with pytest.raises(CacheError, match="objects are missing"):
        cache.fetch("14", 1000)
    obstore.put(cache.objects.store, "keys/sub-14/bin-1000ms.json", b"{}")
    with pytest.raises(CacheError, match="is no pointer to a key"):
        cache.describe("14", 1000)


PUBLISHER = """
import pickle, sys
from pathlib import Path
from summer_prep.bucket import BucketCache
from summer_prep.places import Url
files, digests = pickle.loads(Path(sys.argv[2]).read_bytes())
BucketCache(Url(sys.argv[1]), Path(sys.argv[3])).publish("14", 1000, files, digests)
"""


def start_publisher(cache, files, folder):
    (folder / "files").write_bytes(pickle.dumps((files, digests_of(files))))
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, cache.url, folder / "files", folder / "builder"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("is_rebuild", [False, True], ids=["first build", "rebuild"])
@pytest.mark.parametrize("put", [1, 9, "last but one", "pointer", "pointer, done"])
def test_a_builder_killed_between_puts_leaves_the_old_key_or_the_new_one(
    put, is_rebuild, cache, faults, versions, tmp_path
):
    old, new = versions
    if is_rebuild:
        publish(cache, old)
    numbers = {"last but one": len(new), "pointer": len(new) + 1, "pointer, done": len(new) + 1}
    number = numbers.get(put, put)
    builder = []

    def kill_at(method, _path, count):
        if method == "PUT" and count == number:
            if put == "pointer, done":
                return "lost"
            kill(builder[0].pid)
            return "unheard"
        return None

    faults.set(kill_at)
    builder.append(start_publisher(cache, new, tmp_path))
    code = builder[0].wait()
    faults.clear()
    expected = new if put == "pointer, done" else old if is_rebuild else None
    assert code == (0 if put == "pointer, done" else -9)  # it asked again, and found its own pointer
    assert stands(cache) == expected
    publish(cache, new)
    assert stands(cache) == new


@pytest.mark.parametrize("fault", ["503", "slow", "cut", "lost", "unheard"])
def test_passing_faults_are_not_noticed(fault, cache, faults, versions, monkeypatch):
    chance = random.Random(0)
    faults.set(lambda *_: fault if chance.random() < 0.15 else None)
    for files in versions:
        publish(cache, files)
        assert stands(cache) == files


@pytest.mark.parametrize(("fault", "words"), [("503", "503"), ("unheard", "HTTP error"), ("403", "403")])
def test_lasting_faults_are_one_line_and_change_nothing(fault, words, cache, faults, versions, monkeypatch):
    monkeypatch.setattr(objects, "_RETRIES", {"max_retries": 1, "retry_timeout": timedelta(seconds=1)})
    old, new = versions
    publish(cache, old)
    impatient = BucketCache(cache.url, cache.folder.parent)
    faults.set(lambda method, _path, number: fault if method == "PUT" and number > 5 else None)
    with pytest.raises(CacheError) as caught:
        publish(impatient, new)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    faults.clear()
    assert stands(cache) == old
    faults.set(lambda *_: fault)
    with pytest.raises(CacheError, match="Check URL, credentials and network"):
        impatient.keys()


def test_builders_side_by_side_cannot_mix(cache, versions, tmp_path):
    caches = [BucketCache(cache.url, tmp_path / str(number)) for number in range(4)]
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


def test_garbage_is_removed_after_an_hour(cache, versions, run):
    publish(cache, versions[0])
    old = cache.pointer("14", 1000).data
    publish(cache, versions[1])
    unfinished = "data/sub-14/bin-80ms/0123456789abcdef-0123456789ab.zarr"
    cache.objects.put(f"{unfinished}/zarr.json", b"{}")
    # Whatever else people keep below the same prefix is theirs.
    others = [
        "data/sub-14.nwb", "data/sub-14/sub-14_ecephys.nwb", "data/sub-14/bin-80ms/notes/a.txt", "data/x/y/z/a/b",
        "data/sub-14/bin-80ms/0123456789abcdef-0123456789ab.zarr.zip", "keys/readme.txt", "readme.txt",
    ]  # fmt: skip
    for path in others:
        cache.objects.put(path, b"mine")
    now = datetime.now(UTC)
    assert cache.collect_garbage() == ([], [])
    assert cache.collect_garbage(now=now + timedelta(minutes=59)) == ([], [])
    later = now + timedelta(minutes=61)
    expected = [cache.url / old, cache.url / unfinished]
    assert cache.collect_garbage(may_remove=False, now=later) == (expected, [])
    assert cache.collect_garbage(now=later) == (expected, [])
    assert cache.collect_garbage(now=later) == ([], [])
    assert stands(cache) == versions[1]
    assert [cache.objects.get(path) for path in others] == [b"mine"] * len(others)
    assert "nothing to collect" in error_line(run("summer_prep", "gc", "--cache-dir", "."))


def test_a_reader_whose_data_are_replaced_and_removed_reads_the_new_ones(cache, faults, versions):
    publish(cache, versions[0])
    data = cache.pointer("14", 1000).data

    def replace(method, path, _number):
        if method == "GET" and data in path and faults.fault is replace:
            faults.clear()
            publish(cache, versions[1])
            cache.collect_garbage(now=datetime.now(UTC) + timedelta(hours=2))

    faults.set(replace)
    assert files_of(cache.fetch("14", 1000).folder) == versions[1]


def test_local_cache_keeps_to_its_size(cache, versions, monkeypatch):
    publish(cache, versions[0])
    there = cache.fetch("14", 1000).folder
    ours = [there.parent.parent / f"sub-{number}" / "bin-80ms.zarr" for number in range(3)]
    # A folder of keys that were built there, in the same place as the copies.
    built = cache.folder.parent / "data_cache" / "sub-1" / "bin-80ms.zarr"
    for number, other in enumerate([built, *ours]):
        other.mkdir(parents=True)
        (other / "file").write_bytes(bytes(1000))
        os.utime(other, (number, number))
    partials = [there.with_name(f".bin-80ms.zarr.{name}.partial") for name in ("old", "new")]
    for left in partials:
        left.mkdir()
        (left / "file").write_bytes(b"half")
    os.utime(partials[0] / "file", (0, 0))
    os.utime(partials[0], (0, 0))
    monkeypatch.setenv("SUMMER_LOCAL_CACHE_GB", str((sum(map(len, versions[1].values())) + 1500) / 1e9))
    cache = BucketCache(cache.url, cache.folder.parent)
    publish(cache, versions[1])
    cache.fetch("14", 1000)
    assert [other.exists() for other in ours] == [False, False, True]  # the one used last is there
    assert there.exists()
    assert built.exists()
    assert [left.exists() for left in partials] == [False, True]


@pytest.mark.parametrize("size", ["much", "nan", "-1", "inf"])
def test_a_size_that_is_none_is_refused_before_the_work(size, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("SUMMER_LOCAL_CACHE_GB", size)
    with pytest.raises(SettingsError, match=f"SUMMER_LOCAL_CACHE_GB={size}: must be a number"):
        open_cache(bucket, tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(bucket, versions, tmp_path):
    (tmp_path / "file").write_text("no folder")
    cache = BucketCache(bucket, tmp_path / "file")
    publish(cache, versions[0])  # a note of the recording's digest is all that could not be kept
    with pytest.raises(CacheError, match=r"cannot be written \(.*--local-cache"):
        cache.fetch("14", 1000)
    assert not cache.verify("14", 1000)


def test_without_locks_two_fetches_do_not_meet(cache, faults, versions, monkeypatch):
    monkeypatch.setattr(copies.FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(NotImplementedError))
    publish(cache, versions[0])
    other = BucketCache(cache.url, cache.folder.parent)
    faults.set(lambda method, _path, number: "slow" if method == "GET" and number % 9 == 0 else None)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(one.fetch, "14", 1000) for one in (cache, other)]
        for one in both:
            assert files_of(one.result().folder) == versions[0]
    assert not list(cache.folder.rglob("*.partial"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/prefix", "can be a folder, or in a bucket at s3://, gs://, az://"),
        ("s3://no-such-bucket/x", "no such bucket|Not Found|NoSuchBucket"),
        ("az://container/x", "Account must be specified"),
        ("s3://bucket/a#b", "must be like s3://bucket/folder"),
        ("s3://bucket/a?b", "must be like s3://bucket/folder"),
        ("s3://bucket/a%2fb", "must be like s3://bucket/folder"),
        ("s3://bucket/../other", "must be like s3://bucket/folder"),
        ("s3://bucket//a", "must be like s3://bucket/folder"),
    ],
)
def test_wrong_urls_are_one_line(url, message, bucket, tmp_path):
    with pytest.raises(SettingsError, match=message) as caught:
        check_cache(open_cache(as_place(url, "--cache-dir"), tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_obstore_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SettingsError, match=r"pip install obstore"):
        open_cache(Url("s3://bucket/prefix"), tmp_path)


def test_recordings_behind_urls_build_the_same_keys(bucket, faults, demo_dir, demo_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    recordings = bucket / "recordings"
    store = obstore.store.from_url(recordings, client_options={"allow_http": True})
    for path in demo_dir.rglob("*.nwb"):
        obstore.put(store, path.relative_to(demo_dir).as_posix(), path.read_bytes())

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(demo_dir)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        for number, url in enumerate((recordings, f"http://127.0.0.1:{server.server_port}")):
            options = {
                "data_dir": str(url),
                "cache_dir": tmp_path / str(number),
                "bin_length": [80, 1000],
                "workers": 0,
            }
            results = summer_prep.build(**options)
            assert [result.state for result in results] == ["built"] * 8, results
            for patient_id in ("8", "14", "20", "29"):
                keys = (key_path(folder, patient_id, 80) for folder in (tmp_path / str(number), demo_cache))
                assert len({describe(key).attributes["document_sha256"] for key in keys}) == 1
            assert [result.state for result in summer_prep.build(**options)] == ["fresh"] * 8
    finally:
        server.shutdown()
        server.server_close()
    assert not list((tmp_path / "temporary").glob("summer-*"))
    # A recording that changes is built anew; one that is damaged is told by its URL; no other one is fetched again.
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


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nope://x/y", "Protocol not known"),
        ("s3://no-such-bucket/x", "cannot be listed"),
        ("http://127.0.0.1:1/x", "cannot be listed"),
        ("s3://lab:80/x", "must be like s3://bucket/folder, without port"),
        ("s3:/lab/x", "is like a URL, but none"),
    ],
)
def test_wrong_urls_of_recordings_are_one_line(url, message, bucket, tmp_path):
    with pytest.raises(SettingsError, match=f"--data-dir {url}: .*{message}") as caught:
        summer_prep.build(data_dir=url, cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["s3:/lab/x", "S3:", Path("s3://lab/x"), "http:/host/x"])
def test_a_misspelt_url_is_no_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="is like a URL"):
        summer_prep.build(data_dir=tmp_path, cache_dir=place)
    assert as_place("S3://lab/x", "--cache-dir") == Url("s3://lab/x")
    monkeypatch.setenv("SUMMER_LOCAL_CACHE", str(place))
    with pytest.raises(SettingsError, match="SUMMER_LOCAL_CACHE .*is like a URL"):
        default_local_cache()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT", "localhost:9000"),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_ENDPOINT_URL_S3", "ftp://x"),
        ("AWS_REGION", "a\nb"),
    ],
)
def test_variables_that_no_client_takes_are_one_line(name, value, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}.*"):
        open_cache(bucket, tmp_path)


def test_a_panic_of_the_client_is_one_line(cache):
    class PanicException(BaseException):  # as Rust's is called
        pass

    def panic(_store):
        raise PanicException("request valid")

    with pytest.raises(UnreachableError, match="request valid. Check URL"):
        cache.objects._call(panic)


def test_a_bucket_that_cannot_be_read_makes_no_key_stale(cache, faults, versions, demo_dir, monkeypatch):
    monkeypatch.setattr(objects, "_RETRIES", {"max_retries": 1, "retry_timeout": timedelta(seconds=1)})
    publish(cache, versions[0])
    impatient = BucketCache(cache.url, cache.folder.parent)
    faults.set(lambda method, path, _number: "403" if "keys/sub-14/bin" in path and method == "GET" else None)
    with pytest.raises(UnreachableError, match="403"):
        cache_states(demo_dir, impatient, ["14"], [1000])


def test_removing_what_is_gone_is_no_error(cache, versions):
    publish(cache, versions[0])
    cache.objects.delete(["keys/nothing", "keys/sub-14/bin-1000ms.json"])
    assert cache.keys() == {}
    assert abs(cache.objects.now() - datetime.now(UTC)) < timedelta(minutes=5)
    assert not [entry for entry in cache.objects.list("") if "clock" in entry["path"]]
