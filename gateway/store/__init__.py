"""Redis. Nothing outside this package imports redis."""
