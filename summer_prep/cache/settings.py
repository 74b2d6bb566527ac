"""The options of a build, and those that it shares with training: each stated once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from summer_prep.cache.layout import Codec
from summer_prep.film.facts import LongFrames, check_bin_length
from summer_prep.options import as_bin_lengths, as_patient_ids
from summer_prep.resources import usable_processors
from summer_prep.settings import Settings, option
from summer_prep.urls import Place

DATA_DIR = Path("/data")
CACHE_DIR = Path("data_cache")


def patients_option(more: str = "") -> Any:
    """Return the field of the patients that are asked for."""
    return option((), f"Patients, like 14 20 or 14,20{more}.  [default: every one found]", as_patient_ids, several="ID")


def scheduler_option() -> Any:
    """Return the field of a Dask cluster."""
    help_text = "Work on a Dask cluster: the address of its scheduler.  [default: processes of this machine]"
    return option(None, help_text, metavar="ADDRESS")


@dataclass(frozen=True, kw_only=True)
class Places(Settings):
    """Where recordings and keys are."""

    data_dir: Place = option(DATA_DIR, "Folder with the NWB files, or a URL.")
    nwb_path: Path | None = option(None, "One NWB file; ignored when --patient-ids is given.")
    cache_dir: Place = option(CACHE_DIR, "Folder of the cache, or its URL in a bucket.")
    local_cache: Path | None = option(None, "For copies of keys in buckets.  [default: ~/.cache/summer-pipeline]")


@dataclass(frozen=True, kw_only=True)
class BuildConfig(Places):
    """What to build; the command line and `build` fill it.

    n_workers : a patient is built by one process; 0 builds in this process, which a file that crashes HDF5 then ends
    """

    patient_ids: tuple[str, ...] = patients_option()
    bin_lengths_ms: tuple[int, ...] = option(
        (), "In ms, like 80,200.  [default: all that the files list]", as_bin_lengths, name="bin_length", several="MS"
    )
    n_workers: int = option(
        usable_processors, "Processes, of one patient each.  [default: processors]", least=0, name="workers", min=1
    )
    codec: Codec = option("none", "How spike counts are stored: none can be memory-mapped; zstd and blosc are smaller.")
    long_frames: LongFrames = option("count", "Frames of over 200 ms: count their spikes, as published, or pause.")
    force: bool = option(False, "Build also what is fresh.")
    unusual_clocks: bool = option(False, "Build also where spike times or watch log seem to be in another unit.")
    scheduler: str | None = scheduler_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        for bin_length_ms in self.bin_lengths_ms:
            check_bin_length(bin_length_ms)

    @property
    def of_keys(self) -> dict[str, str]:
        """The attributes of keys that are settings; one built under others is stale for a build."""
        return {"codec": self.codec, "long_frame_rule": self.long_frames}
