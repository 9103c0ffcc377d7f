"""The soak: mixed load for as long as one likes, and whether anything grows. See `python -m tests.soak`."""
