"""Malformed recordings: each ends in a whole key, or in one line that names the file and nothing on disk."""

import time

import h5py
import numpy as np
import pytest

from summer_prep.cache.build import BuildConfig, build_keys
from summer_prep.cache.layout import key_path
from summer_prep.cache.write import verify_key
from tests.summer_prep.recordings import ANNOTATION, BINNING, LOG, assign, first_is, link, remove, replace

COLUMNS = [
    f"{LOG}/pts", f"{LOG}/neural_recording_time", f"{BINNING}/bin_length", f"{BINNING}/edges",
    f"{BINNING}/edges_index", f"{BINNING}/frames", f"{BINNING}/frames_index", f"{ANNOTATION}/label_name",
    f"{ANNOTATION}/indicator_function", f"{ANNOTATION}/indicator_function_index", "units/spike_times",
    "units/spike_times_index", "units/brain_region", "units/is_single_unit", "units/id", "identifier",
]  # fmt: skip
BUILT = "built"


def declare_gigantic(file, name, _old):
    file.create_dataset(name, shape=(10**12,), chunks=(1024,), dtype="f8")


def gigantic_spikes(file):
    replace("units/spike_times", make=declare_gigantic)(file)
    replace("units/spike_times_index", np.linspace(1, 10**12, 5, dtype="i8"))(file)


def store_elsewhere(file, name, old):
    file.create_dataset(name, shape=old.shape, dtype=old.dtype, external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def make_virtual(file, name, old):
    layout = h5py.VirtualLayout(shape=old.shape, dtype=old.dtype)
    layout[...] = h5py.VirtualSource("/tmp/elsewhere.h5", "x", shape=old.shape)
    file.create_virtual_dataset(name, layout)


def link_over_another(file):
    file["general/elsewhere"] = h5py.ExternalLink("other.nwb", "/x")
    link("units/spike_times", h5py.SoftLink("/general/elsewhere"))(file)


def cycle(file):
    file["processing/misc/again"] = file["processing"]


def deep(file):
    group = file["general"]
    for _ in range(100):
        group = group.create_group("deeper")


def two_names(file):
    """Nest groups that each have two names: 2 ** 30 ways to the last one."""
    group = file["general"]
    for _ in range(30):
        child = group.create_group("one")
        group["other"] = child
        group = child


def many_units(file):
    """Declare 200,000 units without spikes."""
    remove(*(f"units/{name}" for name in file["units"] if name not in ("id", "spike_times", "spike_times_index")))(file)
    replace("units/id", np.arange(200_000))(file)
    replace("units/spike_times_index", np.full(200_000, len(file["units/spike_times"])))(file)


def log_of(pts_s):
    """Replace the watch log by one with these film times, 40 ms of recording apart."""

    def edit(file):
        for name, values in (("pts", pts_s), ("neural_recording_time", np.arange(len(pts_s)) * 40.0)):
            replace(f"{LOG}/{name}", values)(file)
        replace(f"{LOG}/id", np.arange(len(pts_s)))(file)

    return edit


def second_table_that_differs(file):
    file.copy("processing/misc", "processing/other")
    file["processing/other/movie_binning_info/edges"][0] = 17.0


def path_like_names(names):
    return np.array([f"../../{number}/.".encode() for number in range(len(names))], "O")


# Name -> edit, and what must come of it: BUILT, a part of the error, or either (None).
CORPUS = {f"without {name}": (lambda file, name=name: file.__delitem__(name), None) for name in COLUMNS}
CORPUS |= {f"{name} as text": (replace(name, np.array([b"x"] * 5, dtype="S1")), None) for name in COLUMNS}
CORPUS |= {f"{name} in 2-D": (replace(name, np.zeros((5, 2))), None) for name in COLUMNS}
CORPUS |= {f"{name} empty": (replace(name, np.zeros(0)), None) for name in COLUMNS}
CORPUS |= {f"{name} gigantic": (replace(name, make=declare_gigantic), None) for name in COLUMNS}
CORPUS |= {
    "no units": (remove("units"), "no units: the table is missing or empty"),
    "no spike times": (remove("units/spike_times", "units/spike_times_index"), "no column spike_times in table /units"),
    "no watchlog": (remove(LOG), "no table cleaned_watchlogs"),
    "no binning table": (remove(BINNING), "no table movie_binning_info"),
    "no annotations": (remove(ANNOTATION), "no table movie_annotations_indicator_functions"),
    "empty watchlog": (log_of(np.zeros(0)), "table cleaned_watchlogs is empty"),
    "tables that differ": (second_table_that_differs, "two tables movie_binning_info that differ"),
    # Links and values in other files.
    "spikes stored elsewhere": (replace("units/spike_times", make=store_elsewhere), "values in another file, which is"),
    "spikes virtual": (replace("units/spike_times", make=make_virtual), "values in another file, which is refused"),
    "spikes behind an external link": (link("units/spike_times", h5py.ExternalLink("/tmp/x.h5", "/x")), "(/tmp/x.h5)"),
    "units behind an external link": (link("units", h5py.ExternalLink("/etc/passwd", "/")), "(/etc/passwd), which is"),
    "spikes behind two links": (link_over_another, "no column spike_times"),
    "spikes behind a dangling link": (link("units/spike_times", h5py.SoftLink("/nowhere")), "no column spike_times"),
    "units linked to itself": (link("units", h5py.SoftLink("/units")), "too many links"),
    # Sizes and shapes.
    "a group that contains itself": (cycle, BUILT),
    "groups nested too deep": (deep, BUILT),
    "two names for every group": (two_names, BUILT),
    "200,000 units": (many_units, BUILT),
    "spikes gigantic": (gigantic_spikes, "declares 1000000000000 values, which take about"),
    "a log without end": (log_of(np.arange(1_000_001) * 0.04), BUILT),
    "a pause at every other row": (log_of(np.repeat(np.arange(12_000), 2) * 0.04), BUILT),
    "a log of one frame": (log_of(np.array([40.0])), None),
    "a short text column": (replace("units/brain_region", lambda values: values[:4]), "5 rows, brain_region has 4"),
    "a long number column": (replace("units/peak_SNR", np.zeros(6)), "spike_times has 5 rows, peak_SNR has 6 rows"),
    "a short log column": (replace(f"{LOG}/pts", lambda pts: pts[:-1]), "cleaned_watchlogs differ in length"),
    "a short binning table": (replace(f"{BINNING}/bin_length", np.array([40, 80])), "bin_length has 2 rows, edges has"),
    # Spikes.
    "spike time not a number": (assign("units/spike_times", first_is(np.nan)), "1 spike times are not numbers"),
    "infinite spike times": (assign("units/spike_times", lambda times: np.full_like(times, np.inf)), "are not numbers"),
    "negative spike times": (assign("units/spike_times", lambda times: -times), BUILT),
    "equal spike times": (assign("units/spike_times", lambda times: np.full_like(times, 30_000)), None),
    "unsorted spike times": (assign("units/spike_times", lambda times: times[::-1]), BUILT),
    "first unit without spikes": (assign("units/spike_times_index", lambda stops: np.r_[0, stops[1:]]), BUILT),
    "index past the end": (assign("units/spike_times_index", lambda stops: stops + 1), "backwards or past the end"),
    "index runs backwards": (assign("units/spike_times_index", lambda stops: stops[::-1]), "backwards or past the end"),
    "index of broken numbers": (replace("units/spike_times_index", lambda stops: stops + 0.5), "past the end"),
    "a unit column of long doubles": (replace("units/peak_SNR", np.zeros(5, np.longdouble)), BUILT),
    "regions not in UTF-8": (replace("units/brain_region", np.array([b"\xff\xfe"] * 5, dtype="S2")), "codec can't"),
    # Bins.
    "bin length not a number": (replace(f"{BINNING}/bin_length", np.full(5, np.nan)), "bin_length of table movie"),
    "negative bin lengths": (assign(f"{BINNING}/bin_length", lambda lengths: -lengths), "are not -40 ms apart"),
    "equal bin lengths": (assign(f"{BINNING}/bin_length", lambda lengths: np.full_like(lengths, 40)), "40 ms apart"),
    "bins of no length": (assign(f"{BINNING}/bin_length", lambda lengths: lengths * 0), "are not 0 ms apart"),
    "edges not evenly spaced": (assign(f"{BINNING}/edges", first_is(0.0)), "are not 40 ms apart: bin 0"),
    "edges that are no numbers": (assign(f"{BINNING}/edges", lambda edges: edges * np.nan), "= nan s in row 0"),
    "edges before the film": (assign(f"{BINNING}/edges", lambda edges: edges - 1000), None),
    "edges after the film": (assign(f"{BINNING}/edges", lambda edges: edges + 1e6), None),
    "frames without a number": (assign(f"{BINNING}/frames", first_is("a picture")), "names 1408 frames in 1409 rows"),
    "frame numbers beyond all bounds": (
        assign(f"{BINNING}/frames", lambda frames: np.full(frames.shape, b"9" * 30 + b".jpg", "O")),
        None,
    ),
    # Labels.
    "labels with slashes and dots": (assign(f"{ANNOTATION}/label_name", path_like_names), BUILT),
    "labels not in UTF-8": (
        replace(f"{ANNOTATION}/label_name", np.array([b"\xff\xfe"] * 53, dtype="S2")),
        "'utf-8' codec can't decode byte 0xff",
    ),
    "label value out of range": (
        assign(f"{ANNOTATION}/indicator_function", first_is(256)),
        "label alison has the value 256 in frame 1; allowed are 0, 1, 99",
    ),
    # Clocks.
    "film time not a number": (assign(f"{LOG}/pts", first_is(np.inf)), "pts = inf s in row 0"),
    "film time standing still": (assign(f"{LOG}/pts", lambda pts: pts * 0), None),
    "film time beyond all bounds": (assign(f"{LOG}/pts", lambda pts: pts * 1e300), "a film time was expected"),
    "film time backwards": (assign(f"{LOG}/pts", lambda pts: pts[::-1]), None),
    "log without analysed frames": (assign(f"{LOG}/pts", lambda pts: pts + 10_000), "shows none of the analysed"),
    "recording time not a number": (
        assign(f"{LOG}/neural_recording_time", first_is(np.nan)),
        "neural_recording_time = nan in row 0",
    ),
    "recording time backwards": (assign(f"{LOG}/neural_recording_time", lambda times: times[::-1]), "runs backwards"),
    "recording time standing still": (assign(f"{LOG}/neural_recording_time", lambda times: times * 0), None),
}


def build_and_look(path, tmp_path):
    """Build; return the result, after checking that it took no time and left nothing but a whole key."""
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


@pytest.mark.parametrize("damage", CORPUS)
def test_malformed_recording_ends_in_a_key_or_one_line(damage, edited, tmp_path):
    edit, expected = CORPUS[damage]
    result = build_and_look(edited(edit), tmp_path)
    if expected == BUILT:
        assert result.state == "built"
    elif expected:
        assert result.state == "failed"
        assert expected in result.message


@pytest.mark.parametrize("share", np.linspace(0.001, 0.999, 20).round(3).tolist())
def test_recording_cut_short_anywhere_is_refused(share, small_recording, tmp_path):
    path = tmp_path / "data" / "sub14.nwb"
    path.parent.mkdir()
    content = small_recording.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert build_and_look(path, tmp_path).state == "failed"
