"""tasks-gateway: background jobs over plain HTTP, for workers in any language."""

__version__ = "0.1.0"
