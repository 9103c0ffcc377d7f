"""The operations of administration: queues' settings, API keys, tenants. Part of the table in `operations.py`."""

from __future__ import annotations

from typing import Any

from gateway import errors
from gateway.api import admin_messages, examples, messages
from gateway.api.admin_messages import TenantName
from gateway.api.messages import JobType
from gateway.api.openapi import Answer, Body, Causes, Operation, Parameter
from gateway.api.task_messages import BulkReply
from gateway.identity import ADMIN, READ

STORE: Causes = (errors.StoreUnavailable,)
STORES: Causes = (*STORE, errors.NotReplicated, errors.StoreFull)
READS_BODY: Causes = (
    errors.EmptyBody, errors.BadJson, errors.BadUtf8, errors.TooDeep, errors.UnknownMember, errors.InvalidMember,
    errors.BodyTooLarge, errors.UnsupportedMediaType, errors.UnsupportedEncoding, errors.Overloaded,
)  # fmt: skip
_QUEUE = Parameter("job_type", JobType, "The queue.", "path", "image_resize", required=True)
_TENANT = Parameter("tenant", TenantName, "The tenant.", "path", "acme", required=True)
_KEY = Parameter("id", messages.TaskId, "The key's id.", "path", examples.KEY["id"], required=True)


def _json(type: Any, **named: Any) -> tuple[Body, ...]:
    return (Body(type, named),)


def _settings(description: str, **named: Any) -> Answer:
    return Answer(description, _json(admin_messages.QueueSettingsReply, **named))


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/queues/{job_type}/settings", "getQueueSettings", "Operators", READ, "Read a queue's settings",
        {200: _settings("Its settings, as they hold now.", settings=examples.QUEUE_SETTINGS)},
        parameters=(_QUEUE,), refusals=(errors.InvalidId, *STORE),
    ),
    Operation(
        "PUT", "/queues/{job_type}", "setQueue", "Operators", ADMIN, "Set a queue",
        {200: _settings("Its settings from now on, at every gateway.", settings=examples.QUEUE_SETTINGS)},
        "What is left out goes back to its default, but for `paused`. Limits hold at once for what waits, `defaults` "
        "for what is enqueued from now on.",
        (_QUEUE,), _json(admin_messages.NewQueueSettings, settings=examples.NEW_QUEUE_SETTINGS),
        (*READS_BODY, errors.InvalidId, errors.QuotaExceeded, *STORES),
    ),
    Operation(
        "PATCH", "/queues/{job_type}", "changeQueue", "Operators", ADMIN, "Change some of a queue's settings",
        {200: _settings("Its settings from now on, at every gateway.", settings=examples.QUEUE_SETTINGS)},
        "What is left out stays as it is; null goes back to the default.",
        (_QUEUE,), _json(admin_messages.NewQueueSettings, slower={"rate_per_second": 5}),
        (*READS_BODY, errors.InvalidId, errors.SettingsChanged, errors.QuotaExceeded, *STORES),
    ),
    Operation(
        "POST", "/queues/{job_type}/pause", "pauseQueue", "Operators", ADMIN, "Hand nothing out for a while",
        {200: _settings("Paused. Tasks are still taken in; workers finish what they hold.", paused=examples.PAUSED)},
        "For `seconds`, `until` a time, or, without a body, until it is resumed.",
        (_QUEUE,), _json(admin_messages.Pause, a_minute={"seconds": 60}, until={"until": "2030-01-31T08:00:00Z"}),
        (*READS_BODY, errors.InvalidId, errors.QuotaExceeded, *STORES), body_required=False,
    ),
    Operation(
        "POST", "/queues/{job_type}/resume", "resumeQueue", "Operators", ADMIN, "Hand tasks out again",
        {200: _settings("It goes on at once.", settings=examples.QUEUE_SETTINGS)},
        parameters=(_QUEUE,), refusals=(errors.InvalidId, *STORES),
    ),
    Operation(
        "POST", "/queues/{job_type}/purge", "purgeQueue", "Operators", ADMIN, "Forget all that waits in a queue",
        {200: Answer("How many tasks are gone, for good.", _json(admin_messages.Purged, purged={"purged": 120}))},
        "What workers hold and what is final stays.",
        (_QUEUE,), refusals=(errors.InvalidId, *STORES),
    ),
    Operation(
        "POST", "/queues/{job_type}/redrive", "redriveQueue", "Operators", ADMIN, "Send a queue's failed tasks back",
        {
            200: Answer(
                "How many tasks the filter met, and how many went back.",
                _json(BulkReply, done=examples.BULK_DONE, more=examples.BULK_MORE),
            )
        },
        "With `rate_per_second` they become due one after the other. At most 10,000 tasks at once, and as many as the "
        "tenant's quota has room for: `more` says that others are left, so repeat it.",
        (_QUEUE,), _json(admin_messages.Redrive, slowly={"rate_per_second": 10, "filter": {"tags": {"team": "web"}}}),
        (*READS_BODY, errors.InvalidId, errors.QuotaExceeded, *STORES), body_required=False,
    ),
    Operation(
        "GET", "/keys", "listKeys", "Operators", ADMIN, "List API keys",
        {200: Answer("The tenant's keys, without their secrets.", _json(admin_messages.KeyList, keys=examples.KEYS))},
        "`admin` of the default tenant sees those of all tenants.",
        refusals=(errors.ForbiddenJobType, *STORE),
    ),
    Operation(
        "POST", "/keys", "createKey", "Operators", ADMIN, "Make an API key",
        {201: Answer("This reply alone shows the secret.", _json(admin_messages.MadeKey, made=examples.MADE_KEY))},
        "Redis keeps a hash of it. Only `admin` of the default tenant may name another `tenant`.",
        (), _json(admin_messages.NewKey, ci=examples.NEW_KEY),
        (*READS_BODY, errors.ForbiddenTenant, *STORES),
    ),
    Operation(
        "DELETE", "/keys/{id}", "revokeKey", "Operators", ADMIN, "Revoke an API key",
        {200: Answer("It is refused from now on.", _json(admin_messages.Revoked, gone=examples.REVOKED))},
        "Other gateways refuse it within two seconds.",
        (_KEY,), refusals=(errors.InvalidId, errors.KeyNotFound, *STORES),
    ),
    Operation(
        "GET", "/tenants", "listTenants", "Operators", ADMIN, "List tenants",
        {200: Answer("Their names.", _json(admin_messages.TenantList, tenants={"tenants": ["acme", "default"]}))},
        "For `admin` of the default tenant.",
        refusals=(errors.ForbiddenTenant, *STORE),
    ),
    Operation(
        "GET", "/tenants/{tenant}", "getTenant", "Operators", ADMIN, "Look at a tenant",
        {200: Answer("What it may, and what it holds.", _json(admin_messages.TenantRecord, tenant=examples.TENANT))},
        "One's own, or any for `admin` of the default tenant.",
        (_TENANT,), refusals=(errors.InvalidId, errors.ForbiddenTenant, *STORE),
    ),
    Operation(
        "PUT", "/tenants/{tenant}", "setTenant", "Operators", ADMIN, "Set a tenant's own limits",
        {200: Answer("What it may, and what it holds.", _json(admin_messages.TenantRecord, tenant=examples.TENANT))},
        "Other gateways hear of it within two seconds. For `admin` of the default tenant. What is left out is that "
        "of all tenants.",
        (_TENANT,), _json(admin_messages.NewLimits, limits={"rate_limit_per_minute": 6000, "max_pending": 50_000}),
        (*READS_BODY, errors.InvalidId, errors.ForbiddenTenant, *STORES),
    ),
)  # fmt: skip
