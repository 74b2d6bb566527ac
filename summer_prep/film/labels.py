"""From per-frame film annotations to one label value per bin, under three rules. Pure arithmetic."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from summer_prep.errors import RecordingError
from summer_prep.film.bins import BinGrid
from summer_prep.film.facts import FRAME_PERIOD_MS, OFF, ON, UNDEFINED, LabelRule


def align_labels(
    indicators: NDArray[np.uint8], grid: BinGrid, named_frames: NDArray[np.int64] | None = None
) -> dict[LabelRule, NDArray[np.uint8]]:
    """Return each label's value in each bin under every rule of `facts.LABEL_RULES`, (n_labels, n_bins) each.

    Parameters
    ----------
    indicators : (n_labels, n_frames) values 0, 1, 99 (undefined)
    named_frames : (n_bins,) 0-based first frames as named in the file; the grid's own where the file names none

    Raises
    ------
    RecordingError : a frame outside the annotation

    Notes
    -----
    - first: the value of the bin's first frame.
    - any: 1 if any frame of the bin is 1, else the first frame's value.
    - majority: the most frequent value; on a tie the first frame's.

    Source: `first` is the reference's rule; the others are our decision (docs/science.md).
    """
    first_frames = grid.first_frames if named_frames is None else named_frames
    n_annotated, first_frame = indicators.shape[1], first_frames.min()
    last_frame = max(first_frames.max(), grid.first_frames[-1] + grid.frames_per_bin - 1)
    if first_frame < 0 or last_frame >= n_annotated:
        outside = last_frame if last_frame >= n_annotated else first_frame
        reached = f"film frame {outside} ({outside * FRAME_PERIOD_MS / 1000:.2f} s)"
        covered = f"frames 0 to {n_annotated - 1}"
        raise RecordingError(f"bins of {grid.bin_length_ms} ms reach {reached}, but the annotation covers {covered}")
    first = np.take(indicators, first_frames, axis=1)
    if grid.frames_per_bin == 1:
        return {"first": first, "any": first, "majority": first}

    frames = indicators[:, grid.first_frame : grid.first_frame + grid.n_bins * grid.frames_per_bin]
    starts = np.arange(grid.n_bins) * grid.frames_per_bin

    def frames_with(value: int) -> NDArray[Any]:
        """Count the frames of each bin in which a label has a value, (n_labels, n_bins)."""
        # The smallest dtype that holds frames_per_bin: these passes are bound by memory.
        count = np.zeros((len(frames), grid.n_bins), dtype=np.min_scalar_type(grid.frames_per_bin))
        has_value = frames == value
        rows = has_value.any(axis=1)  # few labels are ever undefined
        count[rows] = np.add.reduceat(has_value[rows], starts, axis=1, dtype=count.dtype)
        return count

    n_on, n_undefined = frames_with(ON), frames_with(UNDEFINED)
    n_off = grid.frames_per_bin - n_on - n_undefined
    majority = first.copy()
    majority[(n_off > n_on) & (n_off > n_undefined)] = OFF
    majority[(n_on > n_off) & (n_on > n_undefined)] = ON
    majority[(n_undefined > n_off) & (n_undefined > n_on)] = UNDEFINED
    return {"first": first, "any": np.where(n_on > 0, np.uint8(ON), first), "majority": majority}
