"""The science: NumPy alone, no files. Read this first."""
