"""The fault campaign: producers and workers drive several gateways over one Redis while a nemesis breaks things.

Every request and reply is logged with its times; a checker then holds the history and what is left in the store against
what the gateway promises. `python -m tests.campaign --help`; docs/reliability.md says what came of it.
"""
