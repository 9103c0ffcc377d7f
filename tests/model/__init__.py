"""The task store against a model of it: plain Python, no Redis, a clock moved by hand."""
