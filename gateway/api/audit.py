"""The audit log: who did what to what, and when. One line an action that an operator may have to account for.

Never a payload, a token or a secret; a name that a client made up is a field of its own, escaped by the log's format.
"""

from __future__ import annotations

import logging

from gateway.api.endpoint import Call

log = logging.getLogger("gateway.audit")


def audit(call: Call, action: str, **facts: object) -> None:
    """Write down what was done. facts: what it was done to."""
    who = call.identity
    log.info(
        action, extra={"tenant": who.tenant, "subject": who.subject, "request_id": call.request_id, **facts}
    )  # fmt: skip
