"""The library as it is found: a few public names, loaded late; what people write is understood or refused in a line."""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import zarr

import summer_prep
import summer_train
from summer_prep.cache.layout import key_path
from summer_prep.cache.settings import BuildConfig
from summer_prep.errors import SettingsError, SummerError
from summer_prep.settings import options_of
from summer_train.settings.options import Choice, Run


@pytest.mark.parametrize("package", [summer_prep, summer_train])
def test_public_names_are_documented_and_stay_functions_when_every_module_is_loaded(package):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert inspect.getdoc(getattr(package, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018

    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "__main__":
            importlib.import_module(f"{package.__name__}.{module.name}")
    for name in package.__all__:
        assert callable(getattr(package, name)), name  # and no module of the same name


@pytest.mark.parametrize(
    ("function", "own", "kinds"),
    [
        (summer_train.fit, {"network", "config", "log"}, (Choice, Run)),
        (summer_prep.build, {"progress"}, (BuildConfig,)),
    ],
)
def test_signature_and_help_name_every_option(function, own, kinds):
    assert set(inspect.signature(function).parameters) == own | set(options_of(*kinds))
    for name, one in options_of(*kinds).items():
        assert f"\n{name} : {one.metadata['help']}" in function.__doc__


def test_the_whole_path_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = summer_prep.demo_data("rec", patient_ids=[14, "20"], units=6, minutes=10)
    assert [path.exists() for path in paths] == [True, True]
    results = summer_prep.build(data_dir="rec", cache_dir="cache", bin_length=80, workers=0)
    assert [(result.patient_id, result.state) for result in results] == [("14", "built"), ("20", "built")]
    group = summer_prep.open_key("cache", 14, 80)
    assert isinstance(group, zarr.Group)
    data = summer_train.film_data(
        task="label", label_name="summer", patient_ids=[14, 20], data_dir="rec", cache_dir="cache", bin_length=80,
        fold=1, buffer=10, batch_size=32,
    )  # fmt: skip
    decoder = summer_train.decoder(data, hidden_size=16, lr=1e-3)
    assert (decoder.net[0].out_features, decoder.lr, data.choice.hidden_size) == (16, 1e-3, 64)
    result = summer_train.fit(
        task="label", patient_ids=[14, 20], cache_dir="cache", data_dir="rec", buffer=10, max_epochs=2, seed=0
    )
    assert result.scores["model"]["test"]["accuracy"] > 0
    selection = summer_train.open_selection("cache", [14, 20], 80)
    assert selection.counts().shape == (selection.n_bins, 12)
    assert np.array_equal(selection.labels("summer"), group["labels_first"][selection.label_names.index("summer")])
    assert selection.units()["patient_id"].tolist() == ["14"] * 6 + ["20"] * 6
    assert selection.units()["unit_id"][:6].tolist() == group["unit_id"][...].tolist()
    assert selection.units()["brain_region"][:6].tolist() == group["brain_region"][...].tolist()
    assert np.array_equal(selection.film_s(), group["bin_start_s"][...])


@pytest.mark.parametrize(
    "written", [14, "14", [14], ("14",), np.array([14]), np.array(14), np.int64(14), "14,", {"14"}, "sub-14"]
)
def test_one_patient_alone_is_understood(written, demo_cache):
    assert summer_train.open_selection(str(demo_cache), written, 80).n_units == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patient_ids": 14.5}, "--patient-ids 14.5"),
        ({"patient_ids": "../14"}, "'../14': a patient id has letters and digits only"),
        ({"patient_ids": ""}, "names none"),
        ({"patient_ids": [14, "14"]}, "14 stands there twice"),
        ({"cache_dir": 3}, "--cache-dir 3: must be a path"),
        ({"cache_dir": "a" * 300}, "no possible path (File name too long)"),
        ({"bin_length": "80 200"}, "Name one bin length"),
        ({"buffer": "ten"}, "--buffer 'ten': must be a number"),
        ({"buffer": 1e308}, "--buffer 1e+308: must be 0 or more seconds, at most 86400"),
        ({"sequence": (1e308, 1e308)}, "--sequence 1e+308 1e+308: must lie between 0 and 86400"),
        ({"fold": True}, "--fold True: must be a whole number"),
        ({"batch_size": 0}, "--batch-size 0: must be 1 or more"),
        ({"threads": 10**6}, "--threads 1000000: this machine has"),
        ({"label_name": "tom", "task": "next_bin"}, "--label-name: has no effect on --task next_bin. Add --task label"),
        ({"single_units": "yes"}, "--single-units 'yes': must be True or False"),
        ({"task": "both"}, "--task both: choose one of next_bin, label"),
        ({"labelname": "tom"}, "no option 'labelname'. Choose among label_name"),
        ({"devices": 2}, "devices 2: further processes start the command again"),
    ],
)
def test_what_is_not_understood_is_one_line(options, message, demo_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        summer_train.fit(**{"cache_dir": demo_cache, "data_dir": "none", **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "call",
    [
        lambda cache: summer_train.open_selection(cache, None),
        lambda cache: summer_train.open_selection(cache, 14, 7),
        lambda cache: summer_train.open_selection(cache, 14, [80, 1000]),
        lambda cache: summer_prep.open_key(cache, [14, 20]),
        lambda cache: summer_prep.build(data_dir=cache, cache_dir=cache),
        lambda cache: summer_prep.build(data_dir=cache, cache_dir=cache, bin_length=[80, 80]),
        lambda cache: summer_prep.demo_data(cache / "new", units=10_000_000),
        lambda cache: summer_prep.demo_data(cache / "new", minutes=float("inf")),
        lambda cache: summer_train.evaluate(cache / "none.ckpt"),
        summer_train.evaluate,
        lambda cache: summer_train.film_data(cache_dir=cache, max_epochs=5),
        lambda cache: summer_train.open_selection(cache, 14, 80, single_units="no"),
        lambda cache: summer_train.open_selection(cache, 14, 80).labels(3),
        lambda cache: summer_train.open_selection(cache, 14, 80).labels("summer", "best"),
        lambda cache: summer_prep.build(data_dir=cache, cache_dir=cache, workers="2"),
        lambda cache: summer_prep.build(data_dir=cache, cache_dir=cache, codecs="none"),
        lambda cache: summer_prep.build(data_dir=cache, cache_dir=cache, long_frames="drop"),
        lambda cache: summer_prep.demo_data(cache / "new", seed=-1),
        lambda cache: summer_prep.demo_data(cache / "new", layout=["dandi"]),
    ],
)
def test_other_calls_are_refused_in_one_line_too(call, demo_cache):
    before = sorted(demo_cache.iterdir())
    with pytest.raises(SummerError) as caught:
        call(demo_cache)
    assert "\n" not in str(caught.value)
    assert sorted(demo_cache.iterdir()) == before


def test_xarray_finds_coordinates_units_and_long_names(demo_cache):
    import xarray

    key = key_path(demo_cache, "14", 80)
    group = zarr.open_group(key, mode="r")
    with xarray.open_zarr(key, chunks=None) as dataset:
        names = group.attrs["label_names"]
        assert np.array_equal(dataset["labels_any"].sel(label="summer"), group["labels_any"][names.index("summer")])
        rates = dataset["spike_counts"].groupby("brain_region").sum("unit")
        assert sorted(rates["brain_region"].values) == sorted(set(group.attrs["units"]["brain_region"]))
        minute = dataset.set_xindex("bin_start_s").sel(bin_start_s=slice(60, 120))
        assert minute.sizes["bin"] == 750
        assert set(dataset.data_vars) == {"spike_counts", "labels_first", "labels_any", "labels_majority"}
        assert {"label", "unit_id", "brain_region", "bin_start_s", "first_frame", "recorded_s"} <= set(dataset.coords)
        for name, array in dataset.variables.items():
            assert array.attrs["long_name"], name
            assert "units" in array.attrs or array.dtype.kind not in "iufb", name
    assert group["label"][...].tolist() == names
    for name, values in group.attrs["units"].items():
        assert group[name][...].tolist() == values
