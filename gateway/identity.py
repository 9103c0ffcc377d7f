"""Who asks, and what an identity may do. No I/O; `authentication.py` finds out who it is."""

from __future__ import annotations

import msgspec

from gateway.errors import ForbiddenJobType, InsufficientScope
from gateway.tasks import DEFAULT_TENANT, JOB_TYPE, Queue

WRITE, READ, WORK, ADMIN = "tasks:write", "tasks:read", "work", "admin"
SCOPES = (WRITE, READ, WORK, ADMIN)
# What a token without a `scope` claim may do.
DEFAULT_SCOPES = frozenset({WRITE, READ, WORK})
KEY_PREFIX = "tgw_"


class Identity(msgspec.Struct, frozen=True):
    """Who asks. job_types: names or `prefix.*` patterns it is limited to; none: all."""

    tenant: str
    subject: str
    scopes: frozenset[str]
    job_types: tuple[str, ...] = ()

    @property
    def operates(self) -> bool:
        """Whether it looks after the whole deployment: `admin` of the default tenant, with no limit to job_types."""
        return ADMIN in self.scopes and self.tenant == DEFAULT_TENANT and not self.job_types

    def require(self, scope: str) -> None:
        """Raise InsufficientScope unless it has the scope; `admin` has all."""
        if scope not in self.scopes and ADMIN not in self.scopes:
            raise InsufficientScope(scope)

    def may_use(self, job_type: str) -> bool:
        """Whether the identity may touch this queue."""
        return not self.job_types or any(
            job_type == pattern or (pattern.endswith("*") and job_type.startswith(pattern[:-1]))
            for pattern in self.job_types
        )

    def queue(self, job_type: str) -> Queue:
        """Its tenant's queue of this name. Raises ForbiddenJobType when it may not touch it."""
        if self.job_types and not self.may_use(job_type):
            raise ForbiddenJobType(job_type)
        return Queue(self.tenant, job_type)


# Where no identity is configured, and the bundled pool.
ANYBODY = Identity(DEFAULT_TENANT, "anonymous", frozenset(SCOPES))
# Who asks without a token where tokens are checked: what needs none is open to it.
NOBODY = Identity(DEFAULT_TENANT, "anonymous", frozenset())


def valid_pattern(text: str) -> bool:
    """Whether a `job_types` entry is a name, or a prefix and a star."""
    name = text[:-1] if text.endswith("*") else text
    return bool(JOB_TYPE.fullmatch(name)) or text == "*"
