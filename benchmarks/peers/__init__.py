"""Measures the gateway beside the queues that its users would pick instead. `python -m benchmarks.peers --help`.

docs/performance.md says how each is run and what came of it. Nothing here builds another project's server: libraries
are installed as ordinary packages, and servers are reached at the address where somebody already runs them.
"""
