"""Ingest of events: decode, validate, normalize, resolve series, ensure partitions, copy."""
