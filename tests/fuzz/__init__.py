"""Fuzzing: `python -m tests.fuzz --help`."""
