"""`gateway demo`: a scripted story on real input, with workers in the languages that this machine has.

`story` tells it, `stage` starts and ends the processes; `worker.*` are the workers, one a language, without an SDK.
"""
