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
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from summer_prep.cache import build as builds
from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.layout import cached_keys, check_files, describe, key_path
from summer_prep.cache.publish import clear_debris, staging_name
from summer_prep.cache.write import verify_key
from summer_prep.errors import CacheError
from summer_prep.recordings.demo import demo_data
from summer_train.data.mapped import open_patient
from tests.conftest import error_line, hear_interrupts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two recordings of one patient that differ, as two folders."""
    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp(f"version-{seed}")
        demo_data(folder, patient_ids=("14",), units=3, minutes=1, seed=seed)
        folders.append(folder)
    return folders


def build_version(data_dir, cache_dir, **options):
    config = BuildConfig(data_dir=data_dir, cache_dir=cache_dir, bin_lengths_ms=(1000,), n_workers=0, **options)
    (result,) = build_keys(config)
    return result


def source_of(cache_dir):
    return describe(key_path(cache_dir, "14", 1000)).attributes["source"]["sha256"]


@pytest.mark.parametrize(
    "script",
    ["kill_builds.py --kills 6 --seed 3 --write-points --every 160", "fuzz_recordings.py --mutations 60 --seed 3"],
)
def test_soak_script_finds_nothing(script, tmp_path):
    name, *options = script.split()
    command = [sys.executable, str(ROOT / "tests" / "soak" / name), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not list(tmp_path.iterdir())


BUILDER = """
import contextlib, sys
from pathlib import Path
import summer_prep.cache.build as build
import summer_prep.cache.publish as publish
if "no locks" in sys.argv[3]:
    build._patient_lock = lambda *_: contextlib.nullcontext(False)
if "no exchange" in sys.argv[3]:
    publish._swap = lambda *_: False
config = build.BuildConfig(
    data_dir=Path(sys.argv[1]), cache_dir=Path(sys.argv[2]), bin_lengths_ms=(200, 1000), n_workers=0, force=True
)
assert all(result.state == "built" for result in build.build_keys(config)), build.build_keys(config)
"""


@pytest.mark.parametrize("without", ["nothing", "no locks", "no locks, no exchange"])
def test_builders_side_by_side_neither_corrupt_nor_lose_a_key(without, versions, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    builders = [
        subprocess.Popen([sys.executable, "-c", BUILDER, data_dir, tmp_path, without], env=environment)
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


def start_build(demo_dir, folder, n_workers, is_ready):
    """Start `summer-prep build` in a session of its own, wait until something is so, return the process."""
    command = [sys.executable, "-m", "summer_prep", "build", "--data-dir", str(demo_dir), "--cache-dir", "cache"]
    builder = subprocess.Popen(
        [*command, "--workers", str(n_workers)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,  # noqa: PLW1509
    )
    while not is_ready():
        assert builder.poll() is None
        time.sleep(0.005)
    return builder


def test_killed_build_leaves_no_process_behind(demo_dir, tmp_path):
    builder = start_build(demo_dir, tmp_path, 2, lambda: list(tmp_path.glob("cache/*/.*.staging")))
    builder.kill()
    builder.communicate(timeout=30)  # ends when every process that shares the pipe has


@pytest.mark.parametrize("moment", ["workers start", "first patient"])
def test_interrupted_build_ends_at_once_and_leaves_nothing_half_written(moment, demo_dir, tmp_path):
    started = time.monotonic()

    def is_ready():
        if moment == "workers start":
            return time.monotonic() - started > 1
        return list(tmp_path.glob("cache/*/.*.staging"))

    builder = start_build(demo_dir, tmp_path, 1, is_ready)
    os.killpg(builder.pid, signal.SIGINT)
    output, _ = builder.communicate(timeout=60)
    assert (builder.returncode, output) == (130, "")
    assert len(cached_keys(tmp_path / "cache")) < 4  # one was being built, and two waited in line at most
    assert not list(tmp_path.rglob("*.staging"))


def test_debris_of_the_dead_is_cleared_and_that_of_the_living_is_not(tmp_path):
    key = key_path(tmp_path, "14", 80)
    mine = key.parent / staging_name(key)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    of_the_dead = key.parent / mine.name.replace(f"-{os.getpid()}-", f"-{int(dead.stdout)}-")
    note_of_the_dead = of_the_dead.with_name(of_the_dead.name.replace(key.name, ".source.json"))
    elsewhere = key.parent / ".bin-80ms.zarr.0123456789ab-1-x.staging"
    old_elsewhere = key.parent / ".bin-80ms.zarr.0123456789ab-2-x.staging"
    for folder in (mine, of_the_dead, elsewhere, old_elsewhere):
        folder.mkdir(parents=True)
    note_of_the_dead.touch()
    os.utime(old_elsewhere, (0, 0))
    clear_debris(key.parent)
    assert {path.name for path in key.parent.iterdir()} == {mine.name, elsewhere.name}


def test_builder_whose_staging_folder_is_taken_away_starts_again(versions, tmp_path, monkeypatch):
    from summer_prep.cache import publish

    write, n_calls = publish._write, []

    def steal_first(folder, files):
        n_calls.append(folder)
        write(folder, files)
        if len(n_calls) == 1:
            shutil.rmtree(folder)

    monkeypatch.setattr(publish, "_write", steal_first)
    assert build_version(versions[0], tmp_path).state == "built"
    assert len(n_calls) == 2
    assert verify_key(key_path(tmp_path, "14", 1000)) == []


def test_recording_replaced_during_its_build_is_seen_by_the_next(versions, tmp_path, monkeypatch):
    data_dir, cache_dir = tmp_path / "data", tmp_path / "cache"
    shutil.copytree(versions[0], data_dir)
    (path,), (newer,) = data_dir.rglob("*.nwb"), versions[1].rglob("*.nwb")
    build_key = builds._build_key

    def replace_and_build(*arguments):
        shutil.copyfile(newer, path)
        time.sleep(0.1)  # beyond the times that a note would not be trusted with
        return build_key(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(builds, "_build_key", replace_and_build)
        assert build_version(data_dir, cache_dir).state == "built"
    assert build_version(data_dir, cache_dir).state == "built"
    assert build_version(data_dir, cache_dir).state == "fresh"


def test_failed_build_removes_only_a_cache_folder_that_it_made(versions, tmp_path):
    data_dir, theirs = tmp_path / "data", tmp_path / "theirs"
    data_dir.mkdir()
    theirs.mkdir()
    (data_dir / "sub14.nwb").write_bytes(b"not NWB")
    for cache_dir in (theirs, tmp_path / "ours"):
        assert build_version(data_dir, cache_dir).state == "failed"
    assert list(theirs.iterdir()) == []
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("fault", ["second rename fails", "another build publishes in between"])
def test_replacing_in_two_steps_never_ends_without_a_key(fault, versions, tmp_path, monkeypatch):
    from summer_prep.cache import publish

    key = key_path(tmp_path, "14", 1000)
    build_version(versions[0], tmp_path)
    before = source_of(tmp_path)
    shutil.copytree(key, tmp_path / "theirs")
    rename, n_calls = os.rename, []

    def rename_badly(source, target):
        n_calls.append(target)
        if len(n_calls) == 3 and fault == "second rename fails":  # one to find the key there, one to move it away
            raise OSError(5, "Input/output error")
        if len(n_calls) == 3:
            rename(tmp_path / "theirs", key)
        rename(source, target)

    monkeypatch.setattr(publish, "_swap", lambda *_: False)
    monkeypatch.setattr(publish.os, "rename", rename_badly)
    result = build_version(versions[1], tmp_path)
    assert result.state == ("failed" if fault == "second rename fails" else "built")
    assert (source_of(tmp_path) == before) == (result.state == "failed")
    assert verify_key(key) == []
    assert not list(tmp_path.rglob("*.staging"))


def test_an_old_key_that_cannot_be_put_back_is_kept_until_the_next_build(versions, tmp_path, monkeypatch):
    from summer_prep.cache import publish

    build_version(versions[0], tmp_path)
    before, rename = source_of(tmp_path), os.rename

    def rename_once(source, target):
        if "-old.staging" not in str(target) and "-old.staging" not in str(source) and not os.path.exists(target):
            raise OSError(5, "Input/output error")
        if "-old.staging" in str(source):
            raise OSError(5, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(publish, "_swap", lambda *_: False)
        patch.setattr(publish.os, "rename", rename_once)
        result = build_version(versions[1], tmp_path)
    (kept,) = (tmp_path / "sub-14").glob("*-old.staging")
    assert result.state == "failed"
    assert str(kept) in result.message
    clear_debris(tmp_path / "sub-14")  # its builder lives: this process
    assert kept.exists()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    kept.rename(kept.with_name(kept.name.replace(f"-{os.getpid()}-", f"-{int(dead.stdout)}-")))
    clear_debris(tmp_path / "sub-14")
    assert source_of(tmp_path) == before
    assert verify_key(key_path(tmp_path, "14", 1000)) == []
    assert not list(tmp_path.rglob("*.staging"))


@pytest.fixture
def image_layer(tmp_path):
    """A cache in the lower layer of an overlay, as in a container image, where mounting is allowed."""
    disk = tmp_path / "disk"
    for folder in (disk, tmp_path / "image"):
        folder.mkdir()

    def mount(*options):
        return subprocess.run(["mount", "-t", *options], capture_output=True, check=False).returncode == 0

    if not shutil.which("mount") or not mount("tmpfs", "tmpfs", disk):
        pytest.skip("mounting is not allowed here")
    for name in ("lower", "upper", "work"):
        (disk / name).mkdir()

    def in_image():
        folders = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
        if not mount("overlay", "-o", folders, "overlay", tmp_path / "image"):
            pytest.skip("there are no overlays here")
        return tmp_path / "image"

    yield disk / "lower", in_image
    subprocess.run(["umount", "-l", tmp_path / "image"], capture_output=True, check=False)
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_key_in_a_lower_layer_of_an_image_is_rebuilt(image_layer, versions):
    lower, in_image = image_layer
    build_version(versions[0], lower)
    before, cache = source_of(lower), in_image()
    assert source_of(cache) == before
    assert build_version(versions[1], cache).state == "built"
    assert source_of(cache) != before
    assert verify_key(key_path(cache, "14", 1000)) == []
    assert not list(cache.rglob("*.staging"))


def test_a_key_that_is_a_link_is_replaced_without_a_trace(versions, tmp_path):
    key = key_path(tmp_path / "cache", "14", 1000)
    build_version(versions[0], tmp_path / "cache")
    elsewhere = key.rename(tmp_path / "elsewhere")
    key.symlink_to(elsewhere)
    assert build_version(versions[1], tmp_path / "cache").state == "built"
    assert not key.is_symlink()
    assert verify_key(key) == []
    assert (elsewhere / "zarr.json").exists()
    assert not list(tmp_path.rglob("*.staging"))


def test_a_lock_that_timed_out_is_left_to_its_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(builds, "_LOCK_TIMEOUT_S", 0.1)
    lock = tmp_path / "sub-14" / builds.LOCK_FILE
    with builds._patient_lock(tmp_path, "14") as waited:
        assert not waited
        with builds._patient_lock(tmp_path, "14"):
            assert lock.exists()
        assert lock.exists()
    assert not lock.parent.exists()


def test_script_without_a_main_guard_is_told_so(versions, tmp_path):
    script = tmp_path / "script.py"
    places = f"data_dir=Path({str(versions[0])!r}), cache_dir=Path({str(tmp_path / 'cache')!r})"
    script.write_text(f"from pathlib import Path\nimport summer_prep\nsummer_prep.build({places})\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    last_line = result.stderr.splitlines()[-1]
    assert "SettingsError: no worker process can start. In a script, call it below" in last_line


def test_a_script_from_standard_input_builds(versions, tmp_path):
    places = f"data_dir={str(versions[0])!r}, cache_dir={str(tmp_path / 'cache')!r}"
    script = f"import summer_prep\nprint(*(one.state for one in summer_prep.build({places}, bin_length=1000)))\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-"]
    result = subprocess.run(command, input=script, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "built\n"


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
def small_disk(tmp_path):
    """A file system of 1 MB of its own, where mounting is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("there is no mount program here")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_is_a_clear_error_and_damages_nothing(small_disk, versions):
    assert build_version(versions[0], small_disk).state == "built"
    before = source_of(small_disk)
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - 8192))
    result = build_version(versions[1], small_disk)
    assert result.state == "failed"
    assert "cannot be written (No space left on device). Free space" in result.message
    assert source_of(small_disk) == before
    assert verify_key(key_path(small_disk, "14", 1000)) == []
    assert not list(small_disk.rglob("*.staging"))


def test_read_only_cache_trains_and_refuses_builds(small_disk, versions, run, tmp_path):
    build_version(versions[0], small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    result = build_version(versions[1], small_disk)
    assert "cannot be written (Read-only file system)" in result.message
    options = ("--cache-dir", small_disk, "--bin-length", "1000", "--val-fraction", "0.2", "--max-epochs", "1")
    trained = run("summer_train", "fit", *options, "--data-dir", versions[0], "--verify", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr


def test_full_disk_under_the_checkpoints_is_one_line(small_disk, versions, run, tmp_path):
    build_version(versions[0], tmp_path / "data_cache")
    options = ("--bin-length", "1000", "--val-fraction", "0.2", "--hidden-size", "50000", "--data-dir", versions[0])
    result = run("summer_train", "fit", *options, "--output-dir", small_disk / "logs", cwd=tmp_path)
    message = "results cannot be written (No space left on device). Free space"
    assert message in error_line(result)


def test_vanished_cache_is_said(versions, run, tmp_path):
    options = ("--cache-dir", tmp_path / "gone", "--data-dir", tmp_path / "gone too", "--bin-length", "1000")
    assert "no key at 1000 ms in" in error_line(run("summer_train", "fit", *options, cwd=tmp_path))


def test_read_only_recording_is_enough(versions, tmp_path):
    data_dir = tmp_path / "data"
    shutil.copytree(versions[0], data_dir)
    for path in data_dir.rglob("*.nwb"):
        path.chmod(0o444)
    assert build_version(data_dir, tmp_path / "cache").state == "built"


@pytest.fixture
def run_without_privileges(tmp_path):
    """Runs a command as somebody whom permissions stop, which they do not stop root."""
    prefix = []
    if os.geteuid() == 0:
        prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
        if (
            not shutil.which("setpriv")
            or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
        ):
            pytest.skip("privileges cannot be dropped here")

    def run_module(module, *arguments):
        command = [*prefix, sys.executable, "-m", module, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run_module


PLACES = ("--data-dir", "data", "--cache-dir", "cache")


@pytest.mark.parametrize(
    ("place", "mode", "command", "message"),
    [
        ("cache/sub-14", 0o555, "summer_prep build --force", "cannot be written (Permission denied)"),
        ("cache/sub-14/bin-1000ms.zarr/spike_counts/c/0/0", 0o000, "summer_train fit", "Permission denied"),
        ("cache/sub-14/bin-1000ms.zarr/spike_counts/c/0/0", 0o000, "summer_prep verify", "cannot be read (Permission"),
        ("data/sub-14/sub-14_ses-sub14_ecephys.nwb", 0o000, "summer_prep build --force", "cannot be read (Permission"),
        ("data/sub-14", 0o000, "summer_prep build", "may not be read"),
        (".", 0o555, "summer_train fit --val-fraction 0.2", "may not be written to"),
    ],
)
def test_missing_permission_is_one_line(place, mode, command, message, versions, tmp_path, run_without_privileges):
    shutil.copytree(versions[0], tmp_path / "data")
    build_version(tmp_path / "data", tmp_path / "cache")
    (tmp_path / place).chmod(mode)
    module, name, *options = command.split()
    places = PLACES if name != "verify" else PLACES[2:]
    try:
        result = run_without_privileges(module, name, *options, *places, "--bin-length", "1000")
    finally:
        (tmp_path / place).chmod(0o755)
    assert message in error_line(result)
    assert verify_key(key_path(tmp_path / "cache", "14", 1000)) == []


class CacheMachine(RuleBasedStateMachine):
    """Builds, rebuilds, removals, damage and readings in any order, against what must be visible."""

    folders: tuple[Path, Path]

    @initialize()
    def start(self):
        import tempfile

        self.folder = Path(tempfile.mkdtemp())
        self.key = key_path(self.folder, "14", 1000)
        self.visible = None
        self.damage = ""

    @rule(version=st.integers(0, 1), force=st.booleans())
    def build(self, version, force):
        # What structure does not tell, a changed byte, only `verify` finds.
        is_fresh = self.visible == version and not force and self.damage in ("", "flip")
        result = build_version(self.folders[version], self.folder, force=force)
        assert result.state == ("fresh" if is_fresh else "built")
        if not is_fresh:
            self.visible, self.damage = version, ""

    @rule()
    def remove(self):
        shutil.rmtree(self.key, ignore_errors=True)
        self.visible, self.damage = None, ""

    @rule(seed=st.integers(0, 1000))
    def do_damage(self, seed):
        if self.visible is None or self.damage:
            return
        generator = random.Random(seed)
        files = sorted(path for path in self.key.rglob("*") if path.is_file() and path != self.key / "zarr.json")
        self.damage = damage_at_random(generator.choice(files), generator)

    @rule()
    def leave_debris(self):
        folder = self.key.parent / ".bin-1000ms.zarr.0-0-dead.staging"
        folder.mkdir(parents=True, exist_ok=True)

    @invariant()
    def what_is_visible_is_right(self):
        if not hasattr(self, "key"):
            return
        assert cached_keys(self.folder) == ({} if self.visible is None else {"14": [1000]})
        if self.visible is None:
            with pytest.raises(CacheError, match="not in the cache"):
                open_patient(self.key)
            return
        assert bool(verify_key(self.key)) == bool(self.damage)
        if not self.damage:
            patient = open_patient(self.key)
            (path,) = self.folders[self.visible].rglob("*.nwb")
            assert patient.attributes["source"]["bytes"] == path.stat().st_size
            assert patient.chunks[0].sum() == patient.attributes["spikes"]["counted"]

    def teardown(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def test_any_order_of_operations_leaves_what_must_be_visible(versions):
    from hypothesis.stateful import run_state_machine_as_test

    CacheMachine.folders = tuple(versions)
    run_state_machine_as_test(CacheMachine, settings=settings(max_examples=12, stateful_step_count=8, deadline=None))
