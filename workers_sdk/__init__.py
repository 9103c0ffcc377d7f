"""Python client and worker for tasks-gateway; knows the wire protocol only."""

from workers_sdk.client import Client
from workers_sdk.context import Context
from workers_sdk.errors import (
    Conflict,
    GatewayError,
    NotAllowed,
    NotFound,
    PartlyRefused,
    Unavailable,
    Unreachable,
)
from workers_sdk.signals import GiveUp, Interrupted, InvalidPayload, Release, Retry
from workers_sdk.sync_client import SyncClient
from workers_sdk.tasks import LeasedTask, NewTask, RetryRule, Task, TaskError, TaskOptions
from workers_sdk.worker import Worker

__all__ = [
    "Client",
    "Conflict",
    "Context",
    "GatewayError",
    "GiveUp",
    "Interrupted",
    "InvalidPayload",
    "LeasedTask",
    "NewTask",
    "NotAllowed",
    "NotFound",
    "PartlyRefused",
    "Release",
    "Retry",
    "RetryRule",
    "SyncClient",
    "Task",
    "TaskError",
    "TaskOptions",
    "Unavailable",
    "Unreachable",
    "Worker",
]
