"""Signing in: passwords, sessions, access tokens, and what slows guessing down."""
