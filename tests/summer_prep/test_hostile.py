"""A corpus of malformed recordings: each ends in a result or in one line that names the file."""

import shutil
import time

import h5py
import numpy as np
import pytest

from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.layout import key_path
from summer_prep.cache.write import verify_key
from summer_prep.recordings.demo import demo_data

LOG = "stimulus/presentation/cleaned_watchlogs"
BINNING = "processing/misc/movie_binning_info"
ANNOTATION = "processing/misc/movie_annotations_indicator_functions"
COLUMNS = [
    f"{LOG}/pts", f"{LOG}/neural_recording_time", f"{BINNING}/bin_length", f"{BINNING}/edges",
    f"{BINNING}/edges_index", f"{BINNING}/frames", f"{BINNING}/frames_index", f"{ANNOTATION}/label_name",
    f"{ANNOTATION}/indicator_function", f"{ANNOTATION}/indicator_function_index", "units/spike_times",
    "units/spike_times_index", "units/brain_region", "units/is_single_unit", "units/id", "identifier",
]  # fmt: skip


def delete(name):
    return lambda file: file.__delitem__(name)


def replace(name, make, is_ragged=False):
    """Replace a data set by another with the same attributes; one of a ragged column with an index that fits."""

    def edit(file):
        attributes = dict(file[name].attrs)
        old = file[name][()]
        del file[name]
        new = make(file, name, old)
        if new is not None:
            file[name] = new
        for attribute, value in attributes.items():
            file[name].attrs[attribute] = value
        if is_ragged:
            replace(f"{name}_index", lambda *_: np.linspace(1, len(file[name]), 3, dtype="i8"))(file)

    return edit


def assign(name, change):
    def edit(file):
        file[name][...] = change(file[name][...])

    return edit


def declare_gigantic(file, name, _old):
    file.create_dataset(name, shape=(10**12,), chunks=(1024,), dtype="f8")


def store_elsewhere(file, name, old):
    file.create_dataset(name, shape=old.shape, dtype=old.dtype, external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def make_virtual(file, name, old):
    layout = h5py.VirtualLayout(shape=old.shape, dtype=old.dtype)
    layout[...] = h5py.VirtualSource("/tmp/elsewhere.h5", "x", shape=old.shape)
    file.create_virtual_dataset(name, layout)


def link(name, target):
    def edit(file):
        del file[name]
        file[name] = target

    return edit


def cycle(file):
    file["processing/misc/again"] = file["processing"]


def deep(file):
    group = file["general"]
    for _ in range(100):
        group = group.create_group("deeper")


def many_units(file):
    """Declare 200,000 units without spikes."""
    for name in list(file["units"]):
        if name not in ("id", "spike_times", "spike_times_index"):
            del file["units"][name]
    file["units"].attrs["colnames"] = np.array(["spike_times"], dtype=h5py.string_dtype())
    replace("units/id", lambda *_: np.arange(200_000))(file)
    stops = np.full(200_000, len(file["units/spike_times"]), dtype=np.int64)
    target = file["units/spike_times"].ref
    replace("units/spike_times_index", lambda *_: stops)(file)
    file["units/spike_times_index"].attrs["target"] = target


def two_names(file):
    """Nest groups that each have two names: 2 ** 30 ways to the last one."""
    group = file["general"]
    for _ in range(30):
        child = group.create_group("one")
        group["other"] = child
        group = child


def write_log(file, pts_s):
    """Replace the watch log by one with these film times, 40 ms of recording apart."""
    for name, values in (("pts", pts_s), ("neural_recording_time", np.arange(len(pts_s)) * 40.0)):
        replace(f"{LOG}/{name}", lambda *_, values=values: values)(file)
    replace(f"{LOG}/id", lambda *_: np.arange(len(pts_s)))(file)


def long_log(file):
    write_log(file, np.arange(1_000_001) * 0.04)


def many_pauses(file):
    write_log(file, np.repeat(np.arange(12_000), 2) * 0.04)


def path_like_names(names):
    return np.array([f"../../{number}/.".encode() for number in range(len(names))], "O")


CORPUS = {f"without {name}": delete(name) for name in COLUMNS}
CORPUS |= {f"{name} as text": replace(name, lambda *_: np.array([b"x"] * 3, dtype="S1")) for name in COLUMNS}
CORPUS |= {f"{name} in 2-D": replace(name, lambda *_: np.zeros((3, 2))) for name in COLUMNS}
CORPUS |= {f"{name} empty": replace(name, lambda *_: np.zeros(0)) for name in COLUMNS}
CORPUS |= {f"{name} gigantic": replace(name, declare_gigantic) for name in COLUMNS}
CORPUS |= {
    "spikes stored elsewhere": replace("units/spike_times", store_elsewhere),
    "spikes gigantic": replace("units/spike_times", declare_gigantic, is_ragged=True),
    "spikes virtual": replace("units/spike_times", make_virtual),
    "spikes behind an external link": link("units/spike_times", h5py.ExternalLink("/tmp/elsewhere.h5", "/x")),
    "units behind an external link": link("units", h5py.ExternalLink("/etc/passwd", "/")),
    "spikes behind a dangling link": link("units/spike_times", h5py.SoftLink("/nowhere")),
    "units linked to itself": link("units", h5py.SoftLink("/units")),
    "a group that contains itself": cycle,
    "groups nested too deep": deep,
    "200,000 units": many_units,
    "two names for every group": two_names,
    "a log without end": long_log,
    "a pause at every other row": many_pauses,
    "a log of one frame": lambda file: write_log(file, np.array([40.0])),
    "no units": delete("units"),
    "spike times that are no numbers": assign("units/spike_times", lambda times: times * np.nan),
    "a unit column of long doubles": replace("units/peak_SNR", lambda *_: np.zeros(3, np.longdouble)),
    "negative spike times": assign("units/spike_times", lambda times: -times),
    "equal spike times": assign("units/spike_times", lambda times: np.full_like(times, 30_000)),
    "infinite spike times": assign("units/spike_times", lambda times: np.full_like(times, np.inf)),
    "unsorted spike times": assign("units/spike_times", lambda times: times[::-1]),
    "first unit without spikes": assign("units/spike_times_index", lambda stops: np.r_[0, stops[1:]]),
    "index runs backwards": assign("units/spike_times_index", lambda stops: stops[::-1]),
    "negative bin lengths": assign(f"{BINNING}/bin_length", lambda lengths: -lengths),
    "equal bin lengths": assign(f"{BINNING}/bin_length", lambda lengths: np.full_like(lengths, 40)),
    "bins of no length": assign(f"{BINNING}/bin_length", lambda lengths: lengths * 0),
    "edges that are no numbers": assign(f"{BINNING}/edges", lambda edges: edges * np.nan),
    "edges before the film": assign(f"{BINNING}/edges", lambda edges: edges - 1000),
    "edges after the film": assign(f"{BINNING}/edges", lambda edges: edges + 1e6),
    "frame numbers beyond all bounds": assign(
        f"{BINNING}/frames", lambda f: np.full(f.shape, b"9" * 30 + b".jpg", "O")
    ),
    "labels with slashes and dots": assign(f"{ANNOTATION}/label_name", path_like_names),
    "labels not in UTF-8": replace(f"{ANNOTATION}/label_name", lambda *_: np.array([b"\xff\xfe"] * 53, dtype="S2")),
    "regions not in UTF-8": replace("units/brain_region", lambda *_: np.array([b"\xff\xfe"] * 3, dtype="S2")),
    "labels of value 7": assign(f"{ANNOTATION}/indicator_function", lambda values: values + 7),
    "film time standing still": assign(f"{LOG}/pts", lambda pts: pts * 0),
    "film time beyond all bounds": assign(f"{LOG}/pts", lambda pts: pts * 1e300),
    "film time backwards": assign(f"{LOG}/pts", lambda pts: pts[::-1]),
    "recording time standing still": assign(f"{LOG}/neural_recording_time", lambda times: times * 0),
    "recording time infinite": assign(f"{LOG}/neural_recording_time", lambda times: times * np.inf),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    (path,) = demo_data(folder, patient_ids=("14",), units=3, minutes=1, layout="misc")
    return path


def build_and_look(path, tmp_path):
    """Build; return the result, after looking that it took no time and left nothing but a whole key."""
    started = time.perf_counter()
    cache_dir = tmp_path / "cache"
    (result,) = build_keys(BuildConfig(data_dir=path.parent, cache_dir=cache_dir, bin_lengths_ms=(1000,), n_workers=0))
    assert time.perf_counter() - started < 10
    assert {entry.name for entry in tmp_path.iterdir()} <= {"data", "cache"}
    if result.state == "built":
        assert verify_key(key_path(cache_dir, "14", 1000)) == []
    else:
        assert str(path) in result.message
        assert "\n" not in result.message
        assert not cache_dir.exists()
    return result


@pytest.fixture
def path(original, tmp_path):
    copy = tmp_path / "data" / "sub14.nwb"
    copy.parent.mkdir()
    shutil.copy(original, copy)
    return copy


@pytest.mark.parametrize("damage", CORPUS)
def test_malformed_recording_ends_in_a_result_or_one_line(damage, path, tmp_path):
    with h5py.File(path, "r+") as file:
        CORPUS[damage](file)
    build_and_look(path, tmp_path)


@pytest.mark.parametrize("share", np.linspace(0.001, 0.999, 20).round(3).tolist())
def test_recording_cut_short_anywhere_is_refused(share, path, tmp_path):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert build_and_look(path, tmp_path).state == "failed"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("spikes stored elsewhere", "keeps its values in another file, which is refused"),
        ("spikes virtual", "keeps its values in another file, which is refused"),
        ("units behind an external link", "links to another file (/etc/passwd), which is refused"),
        ("spikes gigantic", "declares 1000000000000 values, which take about"),
        ("labels not in UTF-8", "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_the_reason_is_named(damage, message, path, tmp_path):
    with h5py.File(path, "r+") as file:
        CORPUS[damage](file)
    assert message in build_and_look(path, tmp_path).message


@pytest.mark.parametrize(
    "oddity",
    [
        "labels with slashes and dots", "200,000 units", "a unit column of long doubles", "negative spike times",
        "a group that contains itself", "two names for every group", "groups nested too deep", "a log without end",
        "a pause at every other row",
    ],
)  # fmt: skip
def test_what_is_only_odd_is_built(oddity, path, tmp_path):
    with h5py.File(path, "r+") as file:
        CORPUS[oddity](file)
    assert build_and_look(path, tmp_path).state == "built"
