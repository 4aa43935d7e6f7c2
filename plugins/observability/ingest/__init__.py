"""Take batches of events in: decode, validate, prepare, write."""
