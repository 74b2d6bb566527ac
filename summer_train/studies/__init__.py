"""Many models: choices, plan, training, records."""
