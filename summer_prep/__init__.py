"""Bin the SUMMER recordings into film bins and cache them as Zarr arrays."""

__version__ = "0.1.0"
