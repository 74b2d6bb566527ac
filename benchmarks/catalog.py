"""How the questions to a cache grow with its keys: list, status, inspect, open.

    python benchmarks/catalog.py [--folder DIR] [--patients 100 1000]

A simulated catalog of 5 bin lengths per patient: every key has a description of its own, its arrays are links to those
of one small real key. Recordings are empty files whose digests are noted, as after a build.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from summer_prep import build, demo_data
from summer_prep.cache.keys import open_cache
from summer_prep.cache.layout import DESCRIPTION, NO_SHA256, key_path, sealed
from summer_prep.recordings.find import source_identity
from summer_train import open_selection

LENGTHS_MS = (40, 80, 200, 480, 1000)


def simulate(folder: Path, n_patients: int) -> tuple[Path, Path]:
    """Write a catalog of patients; return the folders of recordings and cache."""
    demo_data(folder / "template-nwb", patients=1, minutes=2, units=12)
    build(data_dir=folder / "template-nwb", cache_dir=folder / "template", workers=0)
    data_dir, cache_dir = folder / "nwb", folder / "cache"
    documents = {
        length: json.loads((key_path(folder / "template", "14", length) / DESCRIPTION).read_bytes())
        for length in LENGTHS_MS
    }
    for number in range(1, n_patients + 1):
        patient_id = str(number)
        recording = data_dir / f"sub-{number}" / f"sub-{number}_ses-sub{number}_ecephys.nwb"
        recording.parent.mkdir(parents=True)
        recording.touch()
        sha256 = hashlib.sha256(patient_id.encode()).hexdigest()
        for length, document in documents.items():
            document["attributes"].update(patient_id=patient_id)
            document["attributes"]["source"].update(sha256=sha256, file_name=recording.name)
            document["attributes"]["document_sha256"] = NO_SHA256
            key = key_path(cache_dir, patient_id, length)
            key.mkdir(parents=True)
            (key / DESCRIPTION).write_bytes(sealed(json.dumps(document, indent=2).encode()))
            template = key_path(folder / "template", "14", length)
            for array in os.scandir(template):
                if array.is_dir():
                    (key / array.name).symlink_to(array.path)
        note = {"identity": source_identity(recording), "sha256": sha256}
        (cache_dir / f"sub-{number}" / ".source.json").write_text(json.dumps(note))
    return data_dir, cache_dir


def seconds_of(*command: object) -> float:
    """Return what a command takes, from its start to its end."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *map(str, command)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the catalogs go; a temporary folder by default")
    parser.add_argument("--patients", type=int, nargs="+", default=[100, 1000])
    options = parser.parse_args()
    print("patients    keys  keys() (s)  inspect (s)  status (s)  open (s)")
    for n_patients in options.patients:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            data_dir, cache_dir = simulate(Path(folder), n_patients)
            started = time.perf_counter()
            n_keys = sum(map(len, open_cache(cache_dir).keys().values()))
            listed_s = time.perf_counter() - started
            inspect_s = seconds_of("summer_prep", "inspect", "--cache-dir", cache_dir)
            status_s = seconds_of("summer_prep", "status", "--cache-dir", cache_dir, "--data-dir", data_dir)
            started = time.perf_counter()
            selection = open_selection(cache_dir, [str(number + 1) for number in range(n_patients)], 1000)
            selection.recorded_share()
            open_s = time.perf_counter() - started
            seconds = f"{listed_s:11.2f} {inspect_s:12.2f} {status_s:11.2f} {open_s:9.2f}"
            print(f"{n_patients:8} {n_keys:7} {seconds}", flush=True)


if __name__ == "__main__":
    main()
