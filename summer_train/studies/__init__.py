"""Many models: plan, train, records, progress."""
