"""SUMMER-shaped synthetic recordings: every layout, a known truth, and something for a decoder to find.

The sizes, label shares and regions are facts of the data set (DANDI 001616); the film, its scenes and every spike
are made up from the seed.
"""

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import SettingsError
from summer_prep.files import check_folder
from summer_prep.film import facts
from summer_prep.film.facts import FILM_FRAMES, FRAME_PERIOD_MS, FRAMES_PER_MINUTE, UNDEFINED, FileLayout
from summer_prep.options import as_number, as_path, as_patient_ids
from summer_prep.recordings.nwb import ANNOTATION_TABLE, BINNING_TABLE, WATCHLOG_TABLE
from summer_prep.resources import available_bytes

LAG_MS = 320
"""Tuned units fire faster from this time after their label comes on until this time after it goes off."""
MEDIAN_RATE_HZ = 0.9
"""Median firing rate of untuned units; rates are log-normal."""
MAX_DRIFT, DRIFT_S = 2.0, 15.0
"""Largest drift, and the time within which a drifting rate becomes another one."""

N_TUNED_DIMENSIONS, SMOOTH_S, LOUDNESS_HZ = 8, 1.0, 100
"""Of the film's features: as many follow tuned labels as do not; the SD of the Gaussian that they are smoothed by."""

LAYOUTS: dict[FileLayout, tuple[str, str, str]] = {
    "dandi": ("sub-{0}/sub-{0}_ses-sub{0}_ecephys.nwb", "machine_learning", "machine_learning"),
    "flat": ("sub-{0}_ses-sub{0}_ecephys.nwb", "machine_learning", "machine_learning"),
    "misc": ("sub{0}.nwb", "misc", "misc"),
    "separate": ("sub{0}.nwb", "movie_binning", ANNOTATION_TABLE),
    "stimulus": ("sub{0}.nwb", "stimulus", ANNOTATION_TABLE),
}
"""Layout -> file name, and where the binning and the annotation table stand."""

SHARES_PERCENT: dict[str, float] = {
    "tom": 79.2, "summer": 52.7, "mckenzie": 9.0, "rachel": 4.2, "paul": 3.8, "vance": 0.9, "autumn": 1.6,
    "alison": 1.9, "douche": 1.1, "millie": 1.2, "rhoda": 0.32, "secretary": 0.8,
    "tom-faces": 44.8, "summer-faces": 29.8, "mckenzie-faces": 5.0, "rachel-faces": 2.1, "paul-faces": 1.7,
    "vance-faces": 0.6, "millie-faces": 0.5, "tom-speaking": 18.8, "summer-speaking": 12.0,
    "summer-presence": 64.3, "summer-body-sequence": 1.5, "persons": 94.6,
    "camera-cuts": 0.81, "scenes": 0.11, "days-of-summer": 1.9, "indoor-setting": 67.2, "the-graduate": 0.9,
    "beach": 0.7, "bus": 1.1, "cafe": 3.3, "car": 0.8, "elevator": 0.9, "family-home": 1.3, "gallery": 0.6,
    "ikea": 4.6, "karaoke-bar": 6.5, "office": 13.7, "other-cafe": 1.4, "park": 11.3, "punch-bar": 1.2,
    "record-store": 1.0, "restaurant": 2.4, "soccer-field": 1.3, "street": 9.1, "summer-apartment": 5.3,
    "summer-child-bedroom": 0.4, "theater": 2.2, "tom-apartment": 11.3, "tom-child-bedroom": 0.2, "train": 3.8,
    "wedding-venue": 3.3,
}  # fmt: skip
"""Label -> share of the analysed frames in which it is on; those the data set does not list lie between 0.3 and 3."""

MIN_STRETCHES = 8

TUNED_LABELS = ("summer", "tom-faces", "summer", "indoor-setting", "office", "summer-speaking", "summer", "park")
"""What the tuned units of a patient respond to, in turn."""

REGIONS = {"A": 0.27, "AH": 0.14, "MH": 0.12, "PH": 0.08, "EC": 0.17, "PHC": 0.14, "PIC": 0.05, "LG": 0.02, "FF": 0.01}
PATIENTS_FIRST = ("14", "20", "29", "8")
"""The patients that the published commands name come first."""


class Film(NamedTuple):
    """A film with its annotations: (n_labels, n_frames), values 0, 1, 99."""

    first_analysed: int
    n_analysed: int
    indicators: NDArray[np.uint8]


def demo_data(
    folder: str | Path,
    *,
    patients: int = 2,
    patient_ids: object = None,
    minutes: float = 10.0,
    film_length: bool = False,
    units: int = 40,
    drift: float = 0.0,
    layout: FileLayout = "dandi",
    seed: int = 0,
) -> list[Path]:
    """Write SUMMER-shaped synthetic recordings and `truth.json`, as `summer-prep demo-data` does; return their paths.

    Beside them are targets of the same film, to be added to a cache: film_features.npy, loudness.csv and events.tsv.

    Parameters
    ----------
    patients : how many, instead of `patient_ids`, like 14 or [14, "20"]; 14, 20, 29, 8 and then the numbers from 1
    minutes, film_length : length of the film; as long as the real one, 83.8 minutes, with its exact frame numbers
    units : per patient
    drift : how much firing rates wander over the film, as those of real units do, as a standard deviation of their
        logarithm; 1 is a lot
    layout : file names, and where the tables stand in the files; one of LAYOUTS
    seed : equal seeds make equal recordings

    Raises
    ------
    SettingsError : a file is already there, or none can be written there
    """
    folder = as_path(folder, "folder")
    patients, units = as_number(patients, int, "--patients"), as_number(units, int, "--units")
    minutes, drift = as_number(minutes, float, "--minutes"), as_number(drift, float, "--drift")
    seed = as_number(seed, int, "--seed")
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise SettingsError(f"--layout {layout}: choose one of {', '.join(LAYOUTS)}")
    if units < 1 or patients < 1 or seed < 0 or not 1 <= minutes < float("inf") or not 0 <= drift <= MAX_DRIFT:
        found = f"--patients {patients} --units {units} --minutes {minutes} --seed {seed} --drift {drift}"
        allowed = f"1 or more for the first three, 0 or more for the seed, 0 to {MAX_DRIFT:g} for the drift"
        raise SettingsError(f"{found}: must be {allowed}")
    n_frames = FILM_FRAMES if as_number(film_length, bool, "--film-length") else round(minutes * FRAMES_PER_MINUTE)
    n_spikes = units * n_frames * FRAME_PERIOD_MS / 1000 * 4 * MEDIAN_RATE_HZ
    n_bytes = 32 * n_spikes + 4096 * units + 16 * len(SHARES_PERCENT) * n_frames  # of one patient, copies included
    if n_bytes > available_bytes():
        takes = f"--units {units} over {n_frames / FRAMES_PER_MINUTE:g} minutes take about {n_bytes / 1e9:.0f} GB"
        raise SettingsError(f"{takes}, {available_bytes() / 1e9:.1f} GB are free. Choose fewer or less")
    check_folder(folder, "demo-data")
    others = (str(number) for number in range(1, patients + 5) if str(number) not in PATIENTS_FIRST)
    ids = as_patient_ids(patient_ids) or (*PATIENTS_FIRST, *others)[:patients]
    paths = {patient_id: folder / LAYOUTS[layout][0].format(patient_id) for patient_id in ids}
    for path in paths.values():
        if path.exists():
            raise SettingsError(f"{path}: is already there. Remove it, or name another folder")

    film = _make_film(n_frames, np.random.default_rng(seed))
    truth = {}
    for patient_id, path in paths.items():
        generator = np.random.default_rng([seed, *patient_id.encode()])
        frame_index, recording_time_ms = _make_watchlog(film, generator)
        spikes, tunings = _make_spikes(film, frame_index, recording_time_ms, units, drift, generator)
        path.parent.mkdir(parents=True, exist_ok=True)
        watchlog = {"pts": frame_index * (FRAME_PERIOD_MS / 1000), "neural_recording_time": recording_time_ms}
        _write_nwb(path, patient_id, layout, film, watchlog, spikes, generator)
        truth[patient_id] = {"lag_ms": LAG_MS, "n_units": units, "tuned_units": tunings}
    truth["film"] = _write_targets(folder, film, np.random.default_rng([seed, 20]))
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return list(paths.values())


def _write_targets(folder: Path, film: Film, generator: np.random.Generator) -> dict[str, Any]:
    """Write targets of this film (docs/targets.md), and return what is known of them, for `truth.json`.

    Of the labels in events.tsv, at-work is `office`, to which units are tuned, and music is noise.
    """
    names, n_frames = sorted(SHARES_PERCENT), film.indicators.shape[1]
    labels, n = list(dict.fromkeys(TUNED_LABELS)), N_TUNED_DIMENSIONS
    tracks = _smooth(np.array([film.indicators[names.index(one)] == 1 for one in labels], dtype=float))
    weights = generator.normal(size=(n, len(labels))).round(3)
    noise = _smooth(generator.normal(size=(n + 2, n_frames)))
    np.save(folder / "film_features.npy", np.vstack([weights @ tracks, noise[:n]]).T.astype(np.float32))
    loudness = -30 + 6 * tracks[labels.index("summer-speaking")] + 3 * noise[n]
    samples = np.repeat(loudness, LOUDNESS_HZ * FRAME_PERIOD_MS // 1000)
    np.savetxt(folder / "loudness.csv", samples, fmt="%.2f", header="loudness", comments="")
    rows = ["onset\tduration\ttrial_type"]
    for name, is_on in {"at-work": film.indicators[names.index("office")] == 1, "music": noise[n + 1] > 1}.items():
        bounds = np.flatnonzero(np.diff(is_on.astype(int), prepend=0, append=0)).reshape(-1, 2) * FRAME_PERIOD_MS / 1000
        rows += [f"{start:.2f}\t{stop - start:.2f}\t{name}" for start, stop in bounds]
    (folder / "events.tsv").write_text("\n".join(rows) + "\n")
    return {
        "film_features.npy": {"labels": labels, "weights": weights.tolist(), "untuned": list(range(n, 2 * n))},
        "loudness.csv": {"label_name": "summer-speaking", "step_s": 1 / LOUDNESS_HZ},
        "events.tsv": {"at-work": "office", "music": None},
    }


def _smooth(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows smoothed along the film by a Gaussian, each of mean 0 and SD 1."""
    frequencies = np.fft.rfftfreq(rows.shape[1])
    kernel = np.exp(-2 * (np.pi * frequencies * SMOOTH_S * 1000 / FRAME_PERIOD_MS) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(rows) * kernel, rows.shape[1])
    smooth -= smooth.mean(axis=1, keepdims=True)
    return np.asarray(smooth / smooth.std(axis=1, keepdims=True))


def _make_film(n_frames: int, generator: np.random.Generator) -> Film:
    """Return a film of scenes of about 12 s, each label on in some of them until its listed share is reached.

    Real labels often come in one or two stretches; here a rare one takes parts of MIN_STRETCHES scenes or more, so
    that every fold of a short film has something to learn from.
    """
    first, n_analysed = (of_film * n_frames // FILM_FRAMES for of_film in (facts.FIRST_ANALYSED, facts.N_ANALYSED))
    indicators = np.zeros((len(SHARES_PERCENT), n_frames), dtype=np.uint8)
    for row, (label_name, percent) in enumerate(sorted(SHARES_PERCENT.items())):
        analysed = indicators[row, first : first + n_analysed]
        n_on = max(1, round(percent / 100 * n_analysed))
        if label_name in ("camera-cuts", "scenes"):  # single frames
            analysed[generator.choice(n_analysed, n_on, replace=False)] = 1
            continue
        scene_frames = generator.lognormal(np.log(min(250, n_analysed // 60)), 0.7, size=n_analysed).astype(int) + 10
        cuts = np.cumsum(scene_frames)
        bounds = np.concatenate([[0], cuts[cuts < n_analysed], [n_analysed]])
        longest = max(1, n_on // MIN_STRETCHES) if n_on < n_analysed // 5 else n_analysed
        scenes = generator.permutation(len(bounds) - 1)
        frames = [np.arange(bounds[one], min(bounds[one + 1], bounds[one] + longest)) for one in scenes]
        analysed[np.concatenate(frames)[:n_on]] = 1
        if label_name == "indoor-setting":
            analysed[np.flatnonzero(analysed == 0)[-round(0.06 * n_analysed) :]] = UNDEFINED
    return Film(first, n_analysed, indicators)


def _make_watchlog(film: Film, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return frame and recording time (ms) of each row: 41 ms a frame, and pauses on bin edges and inside bins."""
    n_frames = film.indicators.shape[1]
    step_ms = np.clip(generator.normal(41.0, 0.5, n_frames), 39.0, 43.0)
    in_film = film.first_analysed + generator.integers(0, film.n_analysed, size=generator.integers(3, 8))
    # Every second pause starts a 1 s bin, and so a bin of most lengths; the others fall where they fall.
    in_film[::2] -= (in_film[::2] - film.first_analysed) % 25
    n_rows = np.ones(n_frames, dtype=int)
    n_rows[in_film] += 1
    frame_index = np.repeat(np.arange(n_frames), n_rows)
    row_step_ms = step_ms[frame_index]
    is_pause = np.append(np.diff(frame_index) == 0, False)
    row_step_ms[is_pause] = generator.lognormal(np.log(15_000), 0.9, is_pause.sum())
    before_film_ms = generator.uniform(2_000, 90_000)
    return frame_index, before_film_ms + np.concatenate([[0.0], np.cumsum(row_step_ms[:-1])])


def _make_spikes(
    film: Film,
    frame_index: NDArray[np.int64],
    recording_time_ms: NDArray[np.float64],
    n_units: int,
    drift: float,
    generator: np.random.Generator,
) -> tuple[list[NDArray[np.float64]], list[dict[str, Any]]]:
    """Return each unit's sorted Poisson spike times (ms), from 0 to a while after the film, and how units are tuned.

    A third of the units, at random rows of the table, fire several times as fast while a label is on.
    """
    tuned = np.sort(generator.permutation(n_units)[: max(1, n_units // 3)])
    gains = generator.uniform(3.0, 6.0, len(tuned)).tolist()
    tunings = {
        unit: {"unit": unit, "label_name": label_name, "gain": round(gain, 3), "lag_ms": LAG_MS}
        for unit, gain, label_name in zip(tuned.tolist(), gains, itertools.cycle(TUNED_LABELS), strict=False)
    }
    rates_hz = np.clip(generator.lognormal(np.log(MEDIAN_RATE_HZ), 1.1, n_units), 0.02, 40)
    edges_ms = np.concatenate([[0.0], recording_time_ms, [recording_time_ms[-1] + 20_000]])
    durations_s = np.diff(edges_ms) / 1000
    # The interval after a row shows that row's frame; before the film and after its last row nothing is shown.
    seen = np.clip(frame_index - LAG_MS // FRAME_PERIOD_MS, 0, None)
    names = sorted(SHARES_PERCENT)
    spikes = []
    for unit in range(n_units):
        rate_hz = np.full(len(durations_s), rates_hz[unit])
        if tuning := tunings.get(unit):
            on = film.indicators[names.index(tuning["label_name"]), seen] == 1
            rate_hz[1:] *= np.where(on, tuning["gain"], 1.0)
        if drift:
            knots_s = np.arange(0, edges_ms[-1] / 1000 + DRIFT_S, DRIFT_S)
            wander = np.interp(edges_ms[:-1] / 1000, knots_s, generator.normal(0, drift, len(knots_s)))
            rate_hz *= np.exp(wander - drift**2 / 2)
        n_spikes = generator.poisson(rate_hz * durations_s)
        interval = np.repeat(np.arange(len(n_spikes)), n_spikes)
        spikes.append(np.sort(edges_ms[interval] + generator.random(len(interval)) * durations_s[interval] * 1000))
    return spikes, list(tunings.values())


def _write_nwb(
    path: Path,
    patient_id: str,
    layout: FileLayout,
    film: Film,
    watchlog: dict[str, NDArray[Any]],
    spikes: list[NDArray[np.float64]],
    generator: np.random.Generator,
) -> None:
    """Write a recording; in the tables, a list of arrays is a ragged column."""
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.core import DynamicTable, VectorData, VectorIndex
    from pynwb.file import Subject
    from pynwb.misc import Units

    def table(name: str, about: str, columns: dict[str, Any], kind: Any = DynamicTable) -> Any:
        made: list[Any] = []
        for column, values in columns.items():
            is_ragged = isinstance(values, list) and isinstance(values[0], np.ndarray)
            data = np.concatenate(values) if is_ragged else values
            made.append(VectorData(name=column, description=column.replace("_", " "), data=data))
            if is_ragged:
                stops = np.cumsum([len(value) for value in values])
                made.append(VectorIndex(name=f"{column}_index", data=stops, target=made[-1]))
        return kind(name=name, description=about, columns=made)

    started = datetime(2015, 1, 1, 12, tzinfo=UTC)
    nwb_file = NWBFile(
        session_description=f"SUMMER-shaped synthetic session of patient {patient_id}",
        identifier=f"summer-demo-{patient_id}",
        session_start_time=started,
        file_create_date=started,
        session_id=f"sub{patient_id}",
        subject=Subject(subject_id=patient_id, species="Homo sapiens", sex="U", age="P35Y", description="synthetic"),
    )
    for name in (WATCHLOG_TABLE, "raw_watchlogs"):
        nwb_file.add_stimulus(table(name, "film frame and recording clock of each row", watchlog))
    edges, names = [], []
    for length in facts.DATASET_BIN_LENGTHS_MS:
        frames_per_bin = length // FRAME_PERIOD_MS
        frames = film.first_analysed + np.arange(film.n_analysed // frames_per_bin + 1) * frames_per_bin
        edges.append(frames * (FRAME_PERIOD_MS / 1000))
        names.append(np.array([f"frame_{frame + 1:06d}.jpg" for frame in frames[:-1]], dtype=object))
    binning = {"bin_length": np.array(facts.DATASET_BIN_LENGTHS_MS), "edges": edges, "frames": names}
    labels = {"label_name": sorted(SHARES_PERCENT), "indicator_function": list(film.indicators.astype(np.int64))}
    tables = (
        table(BINNING_TABLE, "edges (s, film clock) and first frames of the bins of each length (ms)", binning),
        table(ANNOTATION_TABLE, "one value per film frame and label", labels),
    )
    for film_table, module in zip(tables, LAYOUTS[layout][1:], strict=True):
        if module == "stimulus":
            nwb_file.add_stimulus(film_table)
            continue
        if module not in nwb_file.processing:
            nwb_file.create_processing_module(name=module, description="film tables")
        nwb_file.processing[module].add(film_table)
    n_units = len(spikes)
    is_single = generator.random(n_units) < 0.52
    shares = np.array(list(REGIONS.values()))
    units = {
        "spike_times": spikes,
        "unit_id": np.arange(n_units),
        "csc_nr": generator.integers(1, 97, n_units),
        "brain_region": list(generator.choice(list(REGIONS), n_units, p=shares / shares.sum())),
        "hemisphere": list(generator.choice(["L", "R"], n_units)),
        "is_single_unit": is_single,
        "cell_type": list(np.where(is_single, generator.choice(["pyramidal", "interneuron"], n_units), "multi-unit")),
        "peak_SNR": generator.uniform(3, 12, n_units),
        "isi_violations": generator.uniform(0, 3, n_units),
        "cv2": generator.normal(1, 0.15, n_units),
        "iso_dist": generator.uniform(10, 60, n_units),
        "waveform_mean": generator.normal(0, 20, (n_units, 64)),
        "waveform_sem": generator.uniform(0.1, 2, (n_units, 64)),
    }
    nwb_file.units = table("units", "sorted units; spike_times in ms, recording clock", units, Units)
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb_file)
