"""Train decoders on the cached SUMMER arrays."""
