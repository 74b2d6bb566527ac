"""What the cache promises, under real faults: kills, builders side by side, damage, full and read-only disks."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import Timeout

import summer_prep.film.align
import summer_train
from summer_prep.cache import publish
from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.layout import cached_keys, check_files, describe, key_path
from summer_prep.cache.publish import clear_debris, staging_name
from summer_prep.cache.write import verify_key
from summer_prep.errors import CacheError, SettingsError
from summer_prep.files import LOCK, locked
from summer_prep.recordings.demo import demo_data
from summer_train.data.mapped import open_patient
from tests.conftest import error_line, start

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two recordings of one patient that differ, as two folders."""
    folders = [tmp_path_factory.mktemp("version") for _ in range(2)]
    for seed, folder in enumerate(folders):
        demo_data(folder, patient_ids=("14",), units=3, minutes=1, seed=seed)
    return folders


def build_version(data_dir, cache_dir, **options):
    config = BuildConfig(data_dir=data_dir, cache_dir=cache_dir, bin_lengths_ms=(1000,), n_workers=0, **options)
    (result,) = build_keys(config)
    return result


def source_of(cache_dir):
    """Return the digest of the recording of a key every byte of which is right, with no debris beside it."""
    key = key_path(cache_dir, "14", 1000)
    assert verify_key(key) == []
    assert not list(cache_dir.rglob("*.staging"))
    return describe(key).attributes["source"]["sha256"]


@pytest.mark.parametrize(
    "script",
    ["kill_builds.py --kills 4 --seed 3 --write-points --every 160", "fuzz_recordings.py --mutations 40 --seed 3"],
)
def test_soak_script_finds_nothing(script, tmp_path):
    name, *options = script.split()
    command = [sys.executable, str(ROOT / "tests" / "soak" / name), *options]
    result = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not list(tmp_path.iterdir())


BUILDER = """
import contextlib, sys
from pathlib import Path
import summer_prep.cache.build as build
import summer_prep.cache.publish as publish
if "no locks" in sys.argv[3]:
    build.locked = lambda *_, **__: contextlib.nullcontext(NotImplementedError())
if "no exchange" in sys.argv[3]:
    publish._swap = lambda *_: False
config = build.BuildConfig(
    data_dir=Path(sys.argv[1]), cache_dir=Path(sys.argv[2]), bin_lengths_ms=(200, 1000), n_workers=0, force=True
)
assert all(result.state == "built" for result in build.build_keys(config)), build.build_keys(config)
"""


@pytest.mark.parametrize("without", ["nothing", "no locks", "no locks, no exchange"])
def test_builders_side_by_side_neither_corrupt_nor_lose_a_key(without, versions, tmp_path):
    builders = [
        subprocess.Popen([sys.executable, "-c", BUILDER, data_dir, tmp_path, without], env=ENVIRONMENT)
        for data_dir in versions * 2
    ]
    n_seen = 0
    while any(builder.poll() is None for builder in builders):
        for length in cached_keys(tmp_path).get("14", []):
            key = key_path(tmp_path, "14", length)
            try:
                patient, problems = open_patient(key), verify_key(key)
            except CacheError as error:
                problems = [str(error)]
            else:
                assert patient.chunks[0].sum() == patient.attributes["spikes"]["counted"]
                n_seen += 1
            # Where two folders cannot be exchanged, there is no key for an instant.
            assert not problems or ("no exchange" in without and "not in the cache" in problems[0]), problems
    assert [builder.returncode for builder in builders] == [0] * 4
    assert n_seen
    assert cached_keys(tmp_path) == {"14": [200, 1000]}
    assert [verify_key(key_path(tmp_path, "14", length)) for length in (200, 1000)] == [[], []]
    assert not list(tmp_path.rglob("*.staging"))


@pytest.mark.parametrize("moment", ["killed", "workers start", "first patient"])
def test_ended_build_leaves_no_process_behind_and_nothing_half_written_if_it_was_interrupted(
    moment, demo_dir, tmp_path
):
    options = ("--data-dir", demo_dir, "--cache-dir", "cache", "--workers", "2" if moment == "killed" else "1")
    builder = start("-m", "summer_prep", "build", *options, cwd=tmp_path, stderr=subprocess.STDOUT)
    children = Path(f"/proc/{builder.pid}/task/{builder.pid}/children")
    while not (children.read_text() if moment == "workers start" else list(tmp_path.glob("cache/*/.*.staging"))):
        assert builder.poll() is None
        time.sleep(0.005)
    if moment == "killed":
        builder.kill()
        builder.communicate(timeout=30)  # ends when every process that shares the pipe has
        return
    os.killpg(builder.pid, signal.SIGINT)
    output, _ = builder.communicate(timeout=60)
    assert (builder.returncode, output) == (130, "")
    assert len(cached_keys(tmp_path / "cache")) < 4  # one was being built, and two waited in line at most
    assert not list(tmp_path.rglob("*.staging"))


@pytest.mark.parametrize("is_alone", [True, False])
def test_debris_goes_at_once_for_who_holds_the_lock_and_after_a_day_elsewhere(is_alone, tmp_path):
    key = key_path(tmp_path, "14", 80)
    with locked(key.parent, 0) as problem:
        assert problem is None
        with locked(key.parent, 0.05) as problem_of_another:
            assert isinstance(problem_of_another, Timeout)
        assert (key.parent / LOCK).exists()  # left to its holder
    assert not key.parent.exists()
    names = [staging_name(key.parent / name) for name in (".source.json", "bin-80ms.zarr", "bin-80ms.zarr")]
    note, new, old = (key.parent / name for name in names)
    note.mkdir(parents=True)
    (new / "spike_counts").mkdir(parents=True)
    old.symlink_to(tmp_path / "elsewhere")
    for path in (note, old):
        os.utime(path, (0, 0), follow_symlinks=False)
    clear_debris(key.parent, is_alone)
    assert list(key.parent.iterdir()) == ([] if is_alone else [new])


@pytest.mark.parametrize("moment", [1, 10, 30])
def test_builder_whose_staging_folder_is_taken_away_starts_again(moment, versions, tmp_path, monkeypatch):
    write, n_calls = Path.write_bytes, []

    def write_beside_another_builder(path, content):
        n_calls.append(path)
        if len(n_calls) == moment:
            clear_debris(tmp_path / "sub-14", is_alone=True)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_beside_another_builder)
    assert build_version(versions[0], tmp_path).state == "built"
    assert len({path.relative_to(tmp_path).parts[1] for path in n_calls}) == 2
    assert source_of(tmp_path)


def test_recording_replaced_during_its_build_is_seen_by_the_next(versions, tmp_path, monkeypatch):
    data_dir, cache_dir = shutil.copytree(versions[0], tmp_path / "data"), tmp_path / "cache"
    (path,), (newer,) = data_dir.rglob("*.nwb"), versions[1].rglob("*.nwb")
    align = summer_prep.film.align.align

    def replace_and_align(*arguments):
        shutil.copyfile(newer, path)
        time.sleep(0.1)  # beyond the times that a note would not be trusted with
        return align(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(summer_prep.film.align, "align", replace_and_align)
        assert build_version(data_dir, cache_dir).state == "built"
    assert [build_version(data_dir, cache_dir).state for _ in range(2)] == ["built", "fresh"]


def test_failed_build_removes_only_a_cache_folder_that_it_made(versions, tmp_path):
    data_dir, theirs = tmp_path / "data", tmp_path / "theirs"
    data_dir.mkdir()
    theirs.mkdir()
    (data_dir / "sub14.nwb").write_bytes(b"not NWB")
    for cache_dir in (theirs, tmp_path / "ours"):
        assert build_version(data_dir, cache_dir).state == "failed"
    assert list(theirs.iterdir()) == []
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("n_failing", [0, 1, 2], ids=["another build is quicker", "no placing", "nor putting back"])
def test_replacing_in_two_steps_never_loses_a_key(n_failing, versions, tmp_path, monkeypatch):
    key = key_path(tmp_path, "14", 1000)
    build_version(versions[0], tmp_path)
    before = source_of(tmp_path)
    shutil.copytree(key, tmp_path / "theirs")
    rename, n_calls = os.rename, []

    def rename_badly(source, target):
        n_calls.append(target)
        if 3 <= len(n_calls) < 3 + n_failing:  # after one that finds the key there, and one that moves it away
            raise OSError(5, "Input/output error")
        if len(n_calls) == 3:
            rename(tmp_path / "theirs", key)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(publish, "_swap", lambda *_: False)
        patch.setattr(os, "rename", rename_badly)
        result = build_version(versions[1], tmp_path)
    assert result.state == ("failed" if n_failing else "built")
    if n_failing == 2:
        (kept,) = key.parent.glob("*-old.staging")
        assert f"is kept as {kept}, the next build puts it back" in result.message
        assert build_version(versions[0], tmp_path).state == "fresh"
    assert (source_of(tmp_path) == before) == bool(n_failing)


@pytest.fixture
def mount(tmp_path):
    """Mounts file systems where that is allowed: mount(folder, type, *options)."""
    mounted = []

    def mount_or_skip(folder, kind, *options):
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", kind, *options, kind, folder]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not allowed here")
        mounted.insert(0, folder)
        return folder

    yield mount_or_skip
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_key_in_a_lower_layer_of_an_image_is_rebuilt(mount, versions, tmp_path):
    disk = mount(tmp_path / "disk", "tmpfs")
    lower, upper, work = (disk / name for name in ("lower", "upper", "work"))
    build_version(versions[0], lower)
    upper.mkdir()
    work.mkdir()
    cache = mount(tmp_path / "image", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}")
    before = source_of(cache)
    assert build_version(versions[1], cache).state == "built"
    assert source_of(cache) != before


def test_a_key_that_is_a_link_is_replaced_without_a_trace(versions, tmp_path):
    key = key_path(tmp_path / "cache", "14", 1000)
    build_version(versions[0], tmp_path / "cache")
    elsewhere = key.rename(tmp_path / "elsewhere")
    key.symlink_to(elsewhere)
    assert build_version(versions[1], tmp_path / "cache").state == "built"
    assert not key.is_symlink()
    assert source_of(tmp_path / "cache")
    assert (elsewhere / "zarr.json").exists()


def test_a_script_without_a_main_guard_is_refused_and_one_from_standard_input_builds(versions, tmp_path):
    places = f"data_dir={str(versions[0])!r}, cache_dir={str(tmp_path / 'cache')!r}"
    script = f"import summer_prep\nprint(*(one.state for one in summer_prep.build({places}, bin_length=1000)))\n"
    (tmp_path / "script.py").write_text(script)
    options = {"env": ENVIRONMENT, "capture_output": True, "text": True}
    refused = subprocess.run([sys.executable, tmp_path / "script.py"], check=False, **options)
    expected = "SettingsError: no worker process can start. In a script, call it below"
    assert expected in refused.stderr.splitlines()[-1]
    assert subprocess.run([sys.executable, "-"], check=True, input=script, **options).stdout == "built\n"


def damage_at_random(path, generator):
    """Flip a byte, cut, lengthen or remove a file; return what was done."""
    content = path.read_bytes()
    kind = generator.choice(["flip", "flip", "cut", "grow", "remove"]) if content else "grow"
    if kind == "flip":
        at = generator.randrange(len(content))
        changed = bytes([content[at] ^ generator.randrange(1, 256)])
        path.write_bytes(content[:at] + changed + content[at + 1 :])
    elif kind == "cut":
        path.write_bytes(content[: generator.randrange(len(content))])
    elif kind == "grow":
        path.write_bytes(content + b"\0")
    else:
        path.unlink()
    return kind


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_every_one_of_300_random_damages_is_found(codec, versions, tmp_path):
    build_version(versions[0], tmp_path, codec=codec)
    key = key_path(tmp_path, "14", 1000)
    files = sorted(path for path in key.rglob("*") if path.is_file() and path != key / "zarr.json")
    description = describe(key)
    generator = random.Random(0)
    for number in range(300):
        path = generator.choice(files)
        original = path.read_bytes()
        kind = damage_at_random(path, generator)
        problems = verify_key(key)
        assert any(str(path) in problem for problem in problems), (number, path, kind)
        with pytest.raises(CacheError, match="Rebuild it"):
            check_files(description, every_byte=True)
        if kind != "flip":
            with pytest.raises(CacheError, match="Rebuild it"):
                open_patient(key)
        elif path.parts[-2:] == ("spike_counts", "zarr.json") or (codec == "zstd" and "spike_counts" in path.parts):
            with pytest.raises(CacheError, match="[Rr]ebuild it"):
                open_patient(key)
        path.write_bytes(original)
    assert verify_key(key) == []


def test_damaged_description_of_a_key_is_found_wherever_its_meaning_changes(versions, tmp_path):
    build_version(versions[0], tmp_path)
    metadata = key_path(tmp_path, "14", 1000) / "zarr.json"
    original = metadata.read_bytes()
    meaningful = [at for at, byte in enumerate(original) if not chr(byte).isspace()]
    generator = random.Random(0)
    for _ in range(200):
        at = generator.choice(meaningful)
        metadata.write_bytes(original[:at] + bytes([original[at] ^ generator.randrange(1, 256)]) + original[at + 1 :])
        with pytest.raises(CacheError, match="damaged|schema|path says"):
            describe(metadata.parent)


@pytest.fixture
def small_disk(mount, tmp_path):
    return mount(tmp_path / "disk", "tmpfs", "-o", "size=1m")


def test_full_disk_is_a_clear_error_and_damages_nothing(small_disk, versions):
    assert build_version(versions[0], small_disk).state == "built"
    before = source_of(small_disk)
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - 8192))
    result = build_version(versions[1], small_disk)
    assert result.state == "failed"
    assert "cannot be written (No space left on device). Free space" in result.message
    assert source_of(small_disk) == before


def test_read_only_recording_builds_and_read_only_cache_trains_and_refuses_builds(small_disk, versions, tmp_path):
    next(versions[0].rglob("*.nwb")).chmod(0o444)
    build_version(versions[0], small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    result = build_version(versions[1], small_disk)
    assert "cannot be written (Read-only file system)" in result.message
    assert build_version(versions[0], small_disk).state == "fresh"
    places = {"cache_dir": small_disk, "data_dir": versions[0], "output_dir": tmp_path}
    assert summer_train.fit(**places, bin_length=1000, val_fraction=0.2, max_epochs=1, verify=True)


def test_full_disk_under_the_checkpoints_is_one_line(small_disk, versions, tmp_path):
    places = {"cache_dir": tmp_path / "cache", "data_dir": versions[0], "output_dir": small_disk / "logs"}
    with pytest.raises(SettingsError, match=r"^\S+ cannot be written \(No space left on device\). Free space.*$"):
        summer_train.fit(**places, bin_length=1000, val_fraction=0.2, hidden_size=50_000)


@pytest.mark.parametrize(
    ("place", "mode", "command", "message"),
    [
        ("cache/sub-14", 0o555, "summer_prep build --force", "cannot be written (Permission denied)"),
        ("cache/sub-14/bin-1000ms.zarr/spike_counts/c/0/0", 0o000, "summer_train fit", "Permission denied"),
        ("cache/sub-14/bin-1000ms.zarr/spike_counts/c/0/0", 0o000, "summer_prep verify", "cannot be read (Permission"),
        ("data/sub-14/sub-14_ses-sub14_ecephys.nwb", 0o000, "summer_prep build --force", "cannot be read (Permission"),
        ("data/sub-14", 0o000, "summer_prep build", "may not be read"),
        (".", 0o555, "summer_train fit --val-fraction 0.2", "cannot be written to (Permission denied)"),
    ],
)
def test_missing_permission_is_one_line(place, mode, command, message, versions, tmp_path, run):
    shutil.copytree(versions[0], tmp_path / "data")
    build_version(tmp_path / "data", tmp_path / "cache")
    (tmp_path / place).chmod(mode)
    module, name, *options = command.split()
    places = ("--data-dir", "data", "--cache-dir", "cache")[2 if name == "verify" else 0 :]
    try:
        result = run("tests.unprivileged", module, name, *options, *places, "--bin-length", "1000", cwd=tmp_path)
    finally:
        (tmp_path / place).chmod(0o755)
    assert message in error_line(result)
    assert verify_key(key_path(tmp_path / "cache", "14", 1000)) == []


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_operations_leaves_what_must_be_visible(seed, versions, tmp_path):
    generator, key = random.Random(seed), key_path(tmp_path, "14", 1000)
    visible, damage = None, ""
    for _ in range(20):
        operation = generator.choice(["build", "build", "force", "remove", "damage", "debris"])
        if operation in ("build", "force"):
            version = generator.randrange(2)
            # A changed byte is found by `verify` only.
            is_fresh = (operation, version) == ("build", visible) and damage in ("", "flip")
            result = build_version(versions[version], tmp_path, force=operation == "force")
            assert result.state == ("fresh" if is_fresh else "built")
            visible, damage = version, damage if is_fresh else ""
        elif operation == "remove":
            shutil.rmtree(key, ignore_errors=True)
            visible, damage = None, ""
        elif operation == "debris":
            (key.parent / staging_name(key)).mkdir(parents=True)
        elif visible is not None and not damage:
            files = sorted(path for path in key.rglob("*") if path.is_file() and path != key / "zarr.json")
            damage = damage_at_random(generator.choice(files), generator)
        assert cached_keys(tmp_path) == ({} if visible is None else {"14": [1000]})
        if visible is None:
            with pytest.raises(CacheError, match="not in the cache"):
                open_patient(key)
        else:
            assert bool(verify_key(key)) == bool(damage)
        if visible is not None and not damage:
            patient = open_patient(key)
            assert patient.attributes["source"]["bytes"] == next(versions[visible].rglob("*.nwb")).stat().st_size
            assert patient.chunks[0].sum() == patient.attributes["spikes"]["counted"]
