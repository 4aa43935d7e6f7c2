"""Import of log files: lines to events, without duplicates however often a file is imported."""
