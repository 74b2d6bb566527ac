"""NWB files: which there are, and each as a `Recording` of plain arrays."""
