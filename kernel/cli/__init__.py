"""The command line. This file is its public face: what commands of plugins print and read."""

from kernel.cli.click_options import read_password, struct_options
from kernel.cli.output import echo, print_difference, print_json, print_table, progress

__all__ = [
    "echo",
    "print_difference",
    "print_json",
    "print_table",
    "progress",
    "read_password",
    "struct_options",
]
