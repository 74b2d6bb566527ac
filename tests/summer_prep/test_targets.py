"""Labels and features of a user's own: from a file to frames and bins, stored whole or not at all."""

import os

import numpy as np
import pandas as pd
import pytest
import zarr

from summer_prep.cache.publish import staging_name
from summer_prep.cache.targets import add_target, film_targets, remove_target, targets
from summer_prep.errors import CacheError, SettingsError
from summer_prep.film.facts import FILM_FRAMES
from summer_prep.film.targets import bins_of_frames, frames_of_intervals, frames_of_samples


def values_of(cache, name):
    return np.concatenate(list(film_targets(cache)[name].blocks()))


INTERVALS = {
    "seconds.csv": "label,start_s,stop_s\nspeech,0.04,0.12\nspeech,0.08,0.2\nmusic,1,1.04\n",
    "frames.csv": "label,start_frame,stop_frame\nspeech,1,3\nspeech,2,5\nmusic,25,26\n",
    "bids.tsv": "onset\tduration\ttrial_type\n0.04\t0.08\tspeech\n0.08\t0.12\tspeech\n1\t0.04\tmusic\n",
}


@pytest.mark.parametrize(("file", "text"), INTERVALS.items())
def test_three_spellings_of_intervals_give_the_same_labels(file, text, tmp_path):
    (tmp_path / file).write_text(text)
    facts = add_target(tmp_path / file, name="mine", cache_dir=tmp_path / "cache")
    assert (facts["kind"], facts["n_united"]) == ("labels", 1)
    values = values_of(tmp_path / "cache", "mine")
    assert values.shape == (FILM_FRAMES, 2)
    assert [np.flatnonzero(column).tolist() for column in values.T] == [[1, 2, 3, 4], [25]]


@pytest.mark.parametrize(
    ("start_s", "step_s"), [(0, 0.01), (0.013, 0.01), (0.36, 0.08), (0.37, 0.08), (1, 0.04), (0, 0.033), (-0.005, 0.01)]
)
def test_regular_samples_reach_frames_as_a_plain_loop_brings_them(start_s, step_s):
    values = np.random.default_rng(0).normal(size=(400, 3)).astype("f4")
    starts = start_s + np.arange(400) * step_s
    found = frames_of_samples(values, start_s, step_s, range(1000))
    for frame in range(1000):
        if step_s < 0.04:
            rows = (starts >= frame * 0.04 - 1e-9) & (starts < (frame + 1) * 0.04 - 1e-9)
        else:
            rows = (starts <= frame * 0.04 + 1e-9) & (starts + step_s > frame * 0.04 + 1e-9)
        expected = values[rows].mean(axis=0) if rows.any() else np.full(3, np.nan)
        np.testing.assert_allclose(found[frame], expected, atol=1e-6)
    parts = [frames_of_samples(values, start_s, step_s, range(start, start + 50)) for start in range(0, 1000, 50)]
    np.testing.assert_array_equal(np.concatenate(parts), found)


def test_a_bin_is_the_mean_of_its_frames_and_undefined_where_one_is():
    values = np.array([[1.0], [3.0], [5.0], [np.nan], [7.0], [9.0]], dtype="f4")
    assert bins_of_frames(values, np.array([0, 2, 4]), 2)[:, 0].tolist() == pytest.approx([2, np.nan, 8], nan_ok=True)
    assert bins_of_frames(values, np.array([4, 4]), 1)[:, 0].tolist() == [7, 7]


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet", "csv"])
def test_arrays_of_every_format_are_the_same_features(suffix, tmp_path):
    values = np.random.default_rng(0).normal(size=(FILM_FRAMES, 2)).round(3).astype("f4")
    values[7, 1] = np.nan
    path, table = tmp_path / f"embedding.{suffix}", pd.DataFrame(values, columns=["x", "y"])
    if suffix == "npy":
        np.save(path, values)
    elif suffix == "npz":
        np.savez(path, values)
    elif suffix == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    facts = add_target(path, name="embedding", cache_dir=tmp_path / "cache")
    assert facts["kind"] == "features"
    assert [one["column"] for one in facts["columns"]] == (
        ["embedding_0", "embedding_1"] if suffix in ("npy", "npz") else ["x", "y"]
    )
    assert [round(one["undefined"] * FILM_FRAMES) for one in facts["columns"]] == [0, 1]
    np.testing.assert_array_equal(values_of(tmp_path / "cache", "embedding"), values)
    assert zarr.open_group(tmp_path / "cache" / "film" / "embedding.zarr", mode="r")["frame_start_s"][2] == 0.08


def test_labels_per_frame_keep_99_and_empty_cells_as_undefined(tmp_path):
    table = pd.DataFrame({"flag": np.zeros(FILM_FRAMES, int)}).astype(object)
    table.loc[0:2, "flag"] = [1, 99, ""]
    table.to_csv(tmp_path / "flag.csv", index=False)
    assert add_target(tmp_path / "flag.csv", name="flag", cache_dir=tmp_path / "cache")["kind"] == "labels"
    assert values_of(tmp_path / "cache", "flag")[:4, 0].tolist() == [1, 99, 99, 0]


WRONG = {
    "milliseconds": ("label,start_s,stop_s\na,1000000,2000000\na,1500000,3000000\n", "milliseconds"),
    "beyond": ("label,start_s,stop_s\na,1,2\nb,1,2\nc,5000,6000\n", "5029.72"),
    "backwards": ("label,start_s,stop_s\na,3,2\n", "after it starts"),
    "no rows": ("label,start_s,stop_s\n", "no interval"),
    "nothing": ("", "cannot be read"),
    "text": ("a,b\n1,x\n", "'b'"),
    "short": ("a\n1.5\n2.5\n", "125743"),
    "taken": ("label,start_s,stop_s\nsummer,1,2\n", "'summer'"),
    "infinite": ("a\n" + "inf\n" * FILM_FRAMES, "infinite"),
    "no label": ("label,start_s,stop_s\n,1,2\n", "label is empty"),
    "odd name": ("label,start_s,stop_s\na & b,1,2\n", "Rename it"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_a_target_is_one_line_and_writes_nothing(text, said, tmp_path, demo_cache):
    cache = tmp_path / "cache"
    cache.mkdir()
    if said == "'summer'":
        (cache / "sub-14").symlink_to(demo_cache / "sub-14")
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(SettingsError, match=said) as caught:
        add_target(tmp_path / "mine.csv", name="mine", cache_dir=cache)
    assert "\n" not in str(caught.value)
    assert not list((cache / "film").glob("*")) if (cache / "film").exists() else True


def test_a_name_is_taken_once_and_free_after_removal(tmp_path):
    (tmp_path / "a.csv").write_text(INTERVALS["seconds.csv"])
    cache = tmp_path / "cache"
    add_target(tmp_path / "a.csv", name="mine", cache_dir=cache)
    np.save(tmp_path / "b.npy", np.zeros(FILM_FRAMES, dtype="f4"))
    with pytest.raises(SettingsError, match="'speech' is a name of target 'mine'"):
        add_target(tmp_path / "b.npy", name="speech", cache_dir=cache)
    (tmp_path / "c.npy").touch()
    with pytest.raises(SettingsError, match="c.npy: cannot be read"):
        add_target(tmp_path / "c.npy", name="c", cache_dir=cache)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(SettingsError, match="it is not a file"):
        add_target(tmp_path / "pipe.csv", name="c", cache_dir=cache)
    for step_s in (float("nan"), float("inf"), 0, -1, 1e-320):
        with pytest.raises(SettingsError, match="Correct --start-s and --step-s"):
            add_target(tmp_path / "b.npy", name="c", cache_dir=cache, step_s=step_s)
    for name, said in (("mine", "remove-target mine"), ("other", "'speech'"), ("a/b", "a/b"), ("a" * 101, "letters")):
        with pytest.raises(SettingsError, match=said):
            add_target(tmp_path / "a.csv", name=name, cache_dir=cache)
    with pytest.raises(SettingsError, match="mine"):
        targets(cache, "nothing")
    killed = cache / "film" / staging_name(cache / "mine.zarr") / "values"  # what a killed command left
    killed.mkdir(parents=True)
    remove_target("mine", cache)
    assert list((cache / "film").iterdir()) == []
    killed.mkdir(parents=True)
    add_target(tmp_path / "a.csv", name="mine", cache_dir=cache)
    assert [path.name for path in (cache / "film").iterdir()] == ["mine.zarr"]


def test_a_damaged_target_is_found(tmp_path):
    (tmp_path / "a.csv").write_text(INTERVALS["seconds.csv"])
    add_target(tmp_path / "a.csv", name="mine", cache_dir=tmp_path / "cache")
    zarr.open_array(tmp_path / "cache" / "film" / "mine.zarr" / "values", mode="r+")[5, 0] = 1
    with pytest.raises(CacheError, match=r"its values were changed.*remove-target mine"):
        targets(tmp_path / "cache")
    (tmp_path / "cache" / "film" / "mine.zarr" / "values" / "c" / "0" / "0").write_bytes(b"cut")
    assert "remove-target mine" in film_targets(tmp_path / "cache")["mine"].problems()[0]


def test_an_interval_on_an_edge_starts_with_its_frame_and_ends_before_the_next():
    _, values, _ = frames_of_intervals(["a"], np.array([0.08]), np.array([0.16]), n_frames=10)
    assert np.flatnonzero(values[0]).tolist() == [2, 3]
