"""Attacks: hand-made requests and clients, against real processes."""
