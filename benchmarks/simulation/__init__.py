"""Simulates wake-ups, rechecks and sweeps of many gateways over one Redis. `python -m benchmarks.simulation -h`."""
