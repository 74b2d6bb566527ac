"""The facts of the SUMMER data set and its film. Standard library only."""

from typing import Literal, get_args

from summer_prep.errors import SettingsError

ALGORITHM_VERSION = 1
"""Raised whenever the same recording would give other numbers, which makes every older key stale."""

FRAME_PERIOD_MS = 40  # 25 frames per second
FILM_FRAMES, FIRST_ANALYSED, N_ANALYSED = 125_743, 918, 118_161
"""Frames of the film, 5029.72 s; the first that is analysed, from 0; how many are: from 36.72 to 4763.16 s.

Source: DANDI 001616.
"""

FRAMES_PER_MINUTE = 60_000 // FRAME_PERIOD_MS
PARTS_PER_FRAME = (2, 4, 5, 8)  # cuts of a frame that give whole milliseconds: bins of 20, 10, 8 and 5 ms
DATASET_BIN_LENGTHS_MS = (40, 80, 200, 480, 1000)  # those that the released files list
DEFAULT_BIN_LENGTH_MS = 80
DEFAULT_BUFFER_S = 32.0
MAX_SECONDS = 86_400.0  # a day: longer than any film

OFF, ON, UNDEFINED = LABEL_VALUES = (0, 1, 99)
"""Values of a label on a frame; `indoor-setting` alone is ever undefined."""

LabelRule = Literal["first", "any", "majority"]
LABEL_RULES: tuple[LabelRule, ...] = get_args(LabelRule)
"""Which frames of a bin decide its label (docs/science.md)."""

LONG_FRAME_MS = 200
"""A frame that took longer may be a pause that nobody wrote down.

Real logs have about 41 ms a frame, with jitter; another public reader of these files takes more than 200 ms between two
rows for a pause.
"""

LongFrames = Literal["count", "pause"]
"""What becomes of them: their spikes count, as in the published code, or they are pauses."""

FileLayout = Literal["dandi", "flat", "misc", "separate", "stimulus"]
"""File names, and where the tables stand in the files, that are or were in use (`demo.LAYOUTS` says which)."""

BRAIN_REGION_GROUPS: dict[str, tuple[str, ...]] = {"H": ("AH", "MH", "PH"), "PHC": ("APH", "MPH", "PPH")}
"""Group name -> the regions it stands for beside its own name (hippocampus; older names of the parahippocampal)."""

BRAIN_REGIONS = ("A", "AH", "MH", "PH", "EC", "PHC", "APH", "MPH", "PPH", "PIC", "LG", "FF", "PRC")
"""Regions in which units of the data set lie."""


def check_bin_length(bin_length_ms: int) -> None:
    """Raise a SettingsError unless this is a multiple of the frame period or a cut of it into whole milliseconds."""
    cuts = [FRAME_PERIOD_MS // parts for parts in PARTS_PER_FRAME]
    if bin_length_ms not in cuts and (bin_length_ms <= 0 or bin_length_ms % FRAME_PERIOD_MS):
        multiples = f"the multiples of {FRAME_PERIOD_MS} ms (40, 80, 120, 200, 480, 1000, ...)"
        possible = f"possible are {multiples} and {', '.join(map(str, cuts))} ms. Choose one with --bin-length"
        raise SettingsError(f"no bins of {bin_length_ms} ms can be made; {possible}")
