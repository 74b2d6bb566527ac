"""Edits of recordings for tests: each takes an open HDF5 file."""

import h5py
import numpy as np

LOG = "stimulus/presentation/cleaned_watchlogs"
BINNING = "processing/misc/movie_binning_info"
ANNOTATION = "processing/misc/movie_annotations_indicator_functions"


def assign(name, change):
    """Write other values into a data set."""

    def edit(file):
        file[name][...] = change(file[name][...])

    return edit


def first_is(value):
    def change(values):
        values[0] = value
        return values

    return change


def remove(*names):
    """Remove columns or groups, and columns from the list of their table."""

    def edit(file):
        for name in names:
            parent, _, child = name.rpartition("/")
            del file[name]
            if parent and "colnames" in file[parent].attrs:
                kept = [column for column in file[parent].attrs["colnames"] if column != child]
                file[parent].attrs["colnames"] = np.array(kept, dtype=h5py.string_dtype())

    return edit


def replace(name, values=None, make=None):
    """Replace a data set by one of other values with the same attributes, or by what `make` makes in its place."""

    def edit(file):
        attributes, old = dict(file[name].attrs), file[name][()]
        del file[name]
        if make:
            make(file, name, old)
        else:
            file[name] = values(old) if callable(values) else values
        for attribute, value in attributes.items():
            file[name].attrs[attribute] = value

    return edit


def link(name, target):
    def edit(file):
        del file[name]
        file[name] = target

    return edit
