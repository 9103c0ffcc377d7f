"""HTTP in, HTTP out. Nothing here talks to Redis."""
