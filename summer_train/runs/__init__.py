"""One run: Lightning's trainer, checkpoints, evaluation, the run's folder."""
