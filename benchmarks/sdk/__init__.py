"""Benchmarks of workers_sdk: which HTTP client it should stand on, and how its worker does against the compiled
client."""
