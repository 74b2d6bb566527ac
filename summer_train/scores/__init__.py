"""Metrics, baselines, nulls, and what a trained network is worth."""
