"""From keys to batches: selected units, samples, targets, the Lightning data module."""
