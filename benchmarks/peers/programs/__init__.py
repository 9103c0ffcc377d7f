"""One program per contender, written the way its own documentation shows, and run in its own environment.

All speak the same command line (see `load.py`) and read the same environment:
PEER_SOCKET: the path of Redis's unix socket. PEER_RECORD: the file to which `job.handle` adds.
PEER_CONCURRENCY: how many jobs the worker runs at once.
"""
