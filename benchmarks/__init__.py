"""Measures the gateway on this machine. `python -m benchmarks --help`; README.md tells how to read it.

Nothing here imports the gateway: it is driven over HTTP, as its users do.
"""
