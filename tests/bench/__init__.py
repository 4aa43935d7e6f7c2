"""Measurements, as ratios of two things done in turn in one run: these machines are too noisy for absolute times."""
