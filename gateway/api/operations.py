"""Every operation of the API in one table: what it takes, what it answers, why it refuses. `openapi.py` writes it out.

A test holds the table against the routes of `app.py`, and the replies of a live gateway against the table. HEAD goes
wherever GET goes and is not listed.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from gateway import errors, metrics
from gateway.api import examples, operations_admin
from gateway.api.admin_messages import HealthReply, LiveReply, QueueList, QueueRecord, ReadyReply
from gateway.api.messages import JobType, LeaseSeconds, Max, PollId, StatusName, TaskId, Wait, WorkerId
from gateway.api.openapi import Answer, Body, Causes, Operation, Parameter
from gateway.api.operations_admin import READS_BODY, STORE, STORES
from gateway.api.task_messages import Bulk, BulkReply, ItemResults, NewTask, PatchTask, TaskBatch, TaskList, TaskReply
from gateway.api.worker_messages import (
    Complete,
    DirectiveReply,
    Fail,
    Heartbeat,
    HeartbeatReply,
    Heartbeats,
    HeartbeatsReply,
    Outcomes,
    OutcomesReply,
    Poll,
    PollReply,
    Release,
    ReportReply,
    SignedOff,
    WorkerList,
)
from gateway.identity import ADMIN, READ, WORK, WRITE

NDJSON = "application/x-ndjson"

# Causes that come together.
OF_TASK: Causes = (errors.InvalidId, errors.TaskNotFound)
REPORTS: Causes = (*READS_BODY, *OF_TASK, errors.LeaseLost, *STORES)

_PREFER = Parameter(
    "Prefer", str, "`wait=N`: answer when the task is final, after N seconds (at most 55) at the latest.", "header"
)
_IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key", Annotated[str, Meta(min_length=1, max_length=255)],
    "Any printable ASCII, a new one for each new request. The same request with the same key is answered the same for "
    "24 hours, and makes nothing twice.",
    "header", "8e03978e-40d5-43dd-bc93-6894a57f9324",
)  # fmt: skip
_IF_NONE_MATCH = Parameter("If-None-Match", str, "ETags you know. 304 if the task is still one of them.", "header")
_TRACE = (
    Parameter("traceparent", str, "W3C Trace Context; handed to the worker.", "header", examples.TRACEPARENT),
    Parameter("tracestate", str, "W3C Trace Context; handed to the worker.", "header"),
)
_TASK = Parameter("id", TaskId, "The task.", "path", examples.TASK_ID, required=True)
_WORKER = Parameter("id", WorkerId, "The worker.", "path", examples.WORKER, required=True)
_WAIT = Parameter("wait", Wait, "Hold the request until the task is final: that many seconds at most.")
_JOB_TYPES = Annotated[list[JobType], Meta(max_length=100)]
_TIME = Annotated[str, Meta(description="RFC 3339 with a zone.", extra_json_schema={"format": "date-time"})]


def _json(type: Any, **named: Any) -> tuple[Body, ...]:
    return (Body(type, named),)


def _task(description: str, *headers: str, **named: Any) -> Answer:
    return Answer(description, _json(TaskReply, **named), headers)


def _directive(verb: str, id: str, summary: str, directive: str) -> Operation:
    example = {"id": examples.WORKER, "directive": directive}
    return Operation(
        "POST", f"/workers/{{id}}/{verb}", id, "Workers", ADMIN, summary,
        {200: Answer("What the worker hears from now on.", _json(DirectiveReply, directive=example))},
        parameters=(_WORKER,), refusals=(errors.InvalidId, *STORES),
    )  # fmt: skip


def _bulk(verb: str, id: str, summary: str, description: str, *refusals: type[errors.Refusal]) -> Operation:
    return Operation(
        "POST", f"/tasks/{verb}", id, "Producers", ADMIN if verb == "delete" else WRITE, summary,
        {
            200: Answer(
                "How many tasks the filter met, and how many changed.",
                _json(BulkReply, done=examples.BULK_DONE, more=examples.BULK_MORE),
            )
        },
        f"{description} At most 10,000 tasks at once: `more` says that others are left, so repeat it.",
        (), _json(Bulk, some=examples.BULK, count=examples.BULK_ALL), (*READS_BODY, *refusals, *STORES),
    )  # fmt: skip


_LEASED = Answer("As soon as there is at least one task.", _json(PollReply, polled=examples.POLLED), ("X-Directive",))
_POLL_ANSWERS = {200: _LEASED, 204: Answer("Nothing came within `wait`. Poll again.", (), ("X-Directive",))}
_POLL_ABOUT = (
    "Long poll: held until there is a task, never longer to fill `max`. The order of the types is strict preference. "
    "Each task comes with a `lease_token` and is yours for `lease_seconds`; every heartbeat renews it. A client that "
    "hangs up gets nothing: what was claimed for it goes back, the attempt uncounted. A reply that was lost on the way "
    "is had again by the same `worker_id` and `poll_id`."
)
_REPORT_ABOUT = "Safe to repeat: the same report with the same token is answered the same. "

OPERATIONS: tuple[Operation, ...] = (
    # Producers
    Operation(
        "POST", "/tasks", "enqueueTask", "Producers", WRITE, "Enqueue a task, or up to 1,000",
        {
            201: Answer(
                "Stored: the task, or `tasks` in the order of the batch.",
                (
                    Body(
                        (TaskReply, TaskBatch),
                        {"task": examples.PENDING, "batch": examples.BATCH_STORED},
                    ),
                ),
                ("Location", "Idempotent-Replayed"),
            ),
            200: Answer(
                "Another task holds the `unique_key`: that task, nothing new was stored. Or `Prefer: wait` and the "
                "task is final. Or a batch that was not stored as a whole: one entry per item.",
                (
                    Body(
                        (TaskReply, ItemResults),
                        {"final": examples.COMPLETED, "in parts": examples.BATCH_IN_PARTS},
                    ),
                ),
                ("Location", "Preference-Applied", "Idempotent-Replayed"),
            ),
            202: _task(
                "`Prefer: wait`, and the task is not final yet.", "Location", "Preference-Applied",
                "Idempotent-Replayed",
                processing=examples.PROCESSING,
            ),
        },
        "What was answered with 201 is kept until it is final and past its retention. An array, or one task per line "
        "as `application/x-ndjson`, is a batch: what can be stored is, and each item has its own answer. When the "
        "queue holds its bound, nothing is stored and the answer is 503 `queue_full`. With an `Idempotency-Key` the "
        "request is safe to repeat. At most one task of a queue holds a `unique_key`; what a second one meets is its "
        "`on_conflict`.",
        (
            Parameter("atomic", bool, "A batch is stored as a whole or not at all. All its tasks have one `job_type`."),
            _IDEMPOTENCY_KEY, _PREFER, *_TRACE,
        ),
        (
            Body(
                (NewTask, Annotated[list[NewTask], Meta(min_length=1, max_length=1000)]),
                {
                    "task": examples.NEW_TASK,
                    "every choice": examples.FULL_TASK,
                    "at most once in the queue": examples.UNIQUE_TASK,
                    "for people": examples.TITLED_TASK,
                    "batch": [examples.NEW_TASK, examples.FULL_TASK],
                },
            ),
            Body(str, {"batch": '{"job_type":"image_resize"}\n{"job_type":"thumbnail","priority":"low"}\n'}, NDJSON),
        ),
        (
            *READS_BODY, errors.UniqueConflict, errors.RequestRunning, errors.TaskChanged, errors.SettingsChanged,
            errors.IdempotencyMismatch, errors.BatchTooLarge, errors.BatchRefused, errors.QueueFull,
            errors.QuotaExceeded, errors.TooManyPolls, errors.ShuttingDown, *STORES,
        ),
    ),
    Operation(
        "GET", "/tasks", "listTasks", "Producers", READ, "List tasks, newest first",
        {200: Answer("A page.", _json(TaskList, page=examples.TASK_LIST), ("Link",))},
        "A task that exists throughout a walk is seen exactly once. A page may be short, or empty, and yet not the "
        "last: only a missing `next_cursor` ends the walk. `status=failed` is the dead-letter queue.",
        (
            Parameter("status", list[StatusName], "Any of these, separated by commas.", comma=True),
            Parameter("job_type", JobType, "Only this queue."),
            Parameter("type", JobType, "Another spelling of `job_type`."),
            Parameter(
                "tag",
                list[Annotated[str, Meta(pattern="^[^:]+:", examples=["team:web"])]],
                "`name:value`; given several times: all of them.",
            ),
            Parameter("worker_id", WorkerId, "Last claimed by this worker."),
            Parameter("created_after", _TIME, "Created then or later."),
            Parameter("created_before", _TIME, "Created before."),
            Parameter("limit", Annotated[int, Meta(ge=1, le=200)], "Tasks on a page. Default: 50."),
            Parameter("cursor", str, "`next_cursor` of the page before, with the same filters."),
        ),
        refusals=(errors.BadCursor, *STORE),
    ),
    Operation(
        "GET", "/tasks/{id}", "getTask", "Producers", READ, "Read a task",
        {
            200: _task(
                "The task, with its attempts and log.", "ETag", "Preference-Applied",
                completed=examples.COMPLETED, processing=examples.PROCESSING,
            ),
            304: Answer("As you know it.", (), ("ETag", "Preference-Applied")),
        },
        "With `wait`, or `Prefer: wait=N`, the reply comes when the task is final.",
        (_TASK, _WAIT, _PREFER, _IF_NONE_MATCH), (), (*OF_TASK, errors.TooManyPolls, *STORE),
    ),
    Operation(
        "GET", "/task", "getTaskByQuery", "Producers", READ, "Spelling of GET /tasks/{id}",
        {
            200: _task("The task, with its attempts and log.", "ETag", "Preference-Applied", pending=examples.PENDING),
            304: Answer("As you know it.", (), ("ETag", "Preference-Applied")),
        },
        "",
        (Parameter("id", TaskId, "The task.", example=examples.TASK_ID, required=True), _WAIT, _PREFER, _IF_NONE_MATCH),
        (), (*OF_TASK, errors.TooManyPolls, *STORE),
    ),
    Operation(
        "DELETE", "/tasks/{id}", "cancelTask", "Producers", WRITE, "Cancel a task",
        {
            200: _task("It waited, and is cancelled.", cancelled=examples.CANCELLED),
            202: _task(
                "A worker has it: `cancel_requested` is in its next heartbeat, and the task ends `cancelled` when it "
                "lets go.",
                processing=examples.CANCELLING,
            ),
        },
        parameters=(_TASK,), refusals=(*OF_TASK, errors.AlreadyFinished, *STORES),
    ),
    Operation(
        "PATCH", "/tasks/{id}", "changeTask", "Producers", WRITE, "Change a waiting task",
        {200: _task("The task as it stands now.", patched=examples.PATCHED)},
        "What is left out stays as it is. A task in a worker's hands is 409 `already_started`.",
        (_TASK,), _json(PatchTask, patch=examples.PATCH),
        (
            *READS_BODY, *OF_TASK, errors.AlreadyStarted, errors.AlreadyFinished, errors.TaskChanged,
            errors.QuotaExceeded, *STORES,
        ),
    ),
    Operation(
        "POST", "/tasks/{id}/retry", "retryTask", "Producers", WRITE, "Send a failed or cancelled task back",
        {200: _task("Waiting again, with fresh attempts.", pending=examples.PENDING)},
        parameters=(_TASK,),
        refusals=(
            *OF_TASK, errors.NotFinished, errors.AlreadyFinished, errors.UniqueConflict, errors.QueueFull,
            errors.QuotaExceeded, *STORES
        ),
    ),
    _bulk(
        "cancel", "cancelTasks", "Cancel many tasks",
        "Cancels what waits; what a worker has is asked to stop, as by DELETE of one.",
    ),
    _bulk(
        "retry", "retryTasks", "Send many failed or cancelled tasks back",
        "As the retry of one, each for itself, as many as the tenant's quota has room for.", errors.QuotaExceeded,
    ),
    _bulk(
        "delete", "deleteTasks", "Forget many tasks",
        "Waiting and final tasks are gone at once, their results with them. What a worker has is left.",
    ),
    # Workers
    Operation(
        "GET", "/poll", "poll", "Workers", WORK, "Wait for work", _POLL_ANSWERS, _POLL_ABOUT,
        (
            Parameter("worker_id", WorkerId, "Your name.", example=examples.WORKER, required=True),
            Parameter(
                "task_type", _JOB_TYPES,
                "What you can do; repeat it, or use commas. At least one, here or in `job_type`.",
                example=["image_resize"],
            ),
            Parameter("job_type", _JOB_TYPES, "Another spelling of `task_type`."),
            Parameter("wait", Wait, "Seconds to hold the request while there is no task. Default: 25."),
            Parameter("max", Max, "Most tasks to hand out at once. Default: 1."),
            Parameter("lease_seconds", LeaseSeconds, "Lease for that long, whatever the task says."),
            Parameter("poll_id", PollId, "Any word; the same one again has the same leases again, while they live."),
        ),
        refusals=(errors.InvalidMember, errors.TooManyPolls, errors.ShuttingDown, *STORES),
    ),
    Operation(
        "POST", "/poll", "pollByBody", "Workers", WORK, "Wait for work, asked for in JSON", _POLL_ANSWERS, _POLL_ABOUT,
        (), _json(Poll, poll=examples.POLL),
        (*READS_BODY, errors.TooManyPolls, errors.ShuttingDown, *STORES),
    ),
    Operation(
        "POST", "/tasks/{id}/heartbeat", "heartbeat", "Workers", WORK, "Keep a lease",
        {200: Answer("The lease goes on.", _json(HeartbeatReply, kept=examples.KEPT))},
        "Send one every `heartbeat_seconds`. `progress` and `log` are shown with the task.",
        (_TASK,), _json(Heartbeat, heartbeat=examples.HEARTBEAT), REPORTS,
    ),
    Operation(
        "POST", "/tasks/{id}/complete", "completeTask", "Workers", WORK, "Report success",
        {
            200: Answer(
                "Accepted; `tasks` is what `next` polled.",
                _json(ReportReply, completed=examples.REPORTED, polled=examples.REPORTED_AND_POLLED),
                ("X-Directive",),
            )
        },
        _REPORT_ABOUT + "With `next`, the reply is also the next poll's. After a 413 the lease goes on: send less.",
        (_TASK,), _json(Complete, result=examples.COMPLETE, **{"and poll": examples.COMPLETE_AND_POLL}),
        REPORTS,
    ),
    Operation(
        "POST", "/tasks/{id}/fail", "failTask", "Workers", WORK, "Report failure",
        {
            200: Answer(
                "Accepted: `retrying` at `run_at`, or `failed` for good.",
                _json(ReportReply, retrying=examples.RETRYING, failed=examples.FAILED),
                ("X-Directive",),
            )
        },
        _REPORT_ABOUT + "Attempts that are left are made after the wait that the task's `retry` says.",
        (_TASK,), _json(Fail, **{"try again": examples.FAIL, "for good": examples.FAIL_FOR_GOOD}), REPORTS,
    ),
    Operation(
        "POST", "/tasks/{id}/release", "releaseTask", "Workers", WORK, "Give a task back",
        {200: Answer("Waiting again, the attempt uncounted.", _json(ReportReply, released=examples.RELEASED))},
        "For a worker that ends, or cannot do this one. The task goes to the end of its priority.",
        (_TASK,), _json(Release, release=examples.RELEASE), REPORTS,
    ),
    Operation(
        "POST", "/outcomes", "reportOutcomes", "Workers", WORK, "Report up to 1,000 tasks",
        {
            200: Answer(
                "One entry per report, in order.", _json(OutcomesReply, done=examples.OUTCOMES_DONE),
                ("X-Directive",),
            )
        },
        "Each report stands for itself: one lost lease leaves the others as they are.",
        (), _json(Outcomes, outcomes=examples.OUTCOMES), (*READS_BODY, *STORES),
    ),
    Operation(
        "POST", "/heartbeats", "sendHeartbeats", "Workers", WORK, "Keep up to 1,000 leases",
        {200: Answer("One entry per lease, in order.", _json(HeartbeatsReply, kept=examples.HEARTBEATS_DONE))},
        "", (), _json(Heartbeats, heartbeats=examples.HEARTBEATS), (*READS_BODY, *STORES),
    ),
    Operation(
        "GET", "/workers", "listWorkers", "Workers", READ, "List workers",
        {
            200: Answer(
                "Who polled in the last five minutes, or holds a lease.",
                _json(WorkerList, workers=examples.WORKERS),
            )
        },
        refusals=STORE,
    ),
    _directive("drain", "drainWorker", "Tell a worker to finish what it holds", "drain"),
    _directive("stop", "stopWorker", "Tell a worker to let go and end", "stop"),
    _directive("run", "resumeWorker", "Take a directive back", "run"),
    Operation(
        "DELETE", "/workers/{id}", "signOffWorker", "Workers", WORK, "Sign a worker off",
        {
            200: Answer(
                "It is gone, and its leases went back at once.",
                _json(SignedOff, gone={"id": examples.WORKER, "released": 1}),
            )
        },
        parameters=(_WORKER,), refusals=(errors.InvalidId, errors.WorkerNotFound, *STORES),
    ),
    # Operators
    Operation(
        "GET", "/queues", "listQueues", "Operators", READ, "Count all queues",
        {
            200: Answer(
                "Counts, at most half a second old.", _json(QueueList, queues={"queues": [examples.QUEUE]})
            )
        },
        refusals=STORE,
    ),
    Operation(
        "GET", "/queues/{job_type}", "getQueue", "Operators", READ, "Count one queue",
        {200: Answer("Counts of now.", _json(QueueRecord, queue=examples.QUEUE))},
        parameters=(Parameter("job_type", JobType, "The queue.", "path", "image_resize", required=True),),
        refusals=(errors.InvalidId, errors.QueueNotFound, *STORE),
    ),
    *operations_admin.OPERATIONS,
    Operation(
        "GET", "/health", "getHealth", "Operators", "", "Look at the whole",
        {
            200: Answer("It serves.", _json(HealthReply, ok=examples.HEALTH)),
            503: Answer(
                "Redis is away, or the gateway is draining.", _json(HealthReply, away=examples.UNHEALTHY),
                ("Retry-After",),
            ),
        },
    ),
    Operation(
        "GET", "/health/live", "getLiveness", "Operators", "", "Ask whether the process answers",
        {200: Answer("It does.", _json(LiveReply, live={"status": "ok"}))},
    ),
    Operation(
        "GET", "/health/ready", "getReadiness", "Operators", "", "Ask whether to send requests here",
        {
            200: Answer("Yes.", _json(ReadyReply, ready={"status": "ok", "reason": None})),
            503: Answer(
                "No: Redis is away or unfit, or the gateway is draining.",
                _json(ReadyReply, away={"status": "unavailable", "reason": "Redis does not answer"}),
                ("Retry-After",),
            ),
        },
    ),
    Operation(
        "GET", "/metrics", "getMetrics", "Operators", READ, "Read metrics",
        {200: Answer("Prometheus text.", (Body(str, {"excerpt": examples.METRICS}, metrics.CONTENT_TYPE),))},
    ),
    Operation(
        "GET", "/openapi.json", "getOpenapi", "Operators", "", "Read this document",
        {200: Answer("OpenAPI 3.1.", _json(dict[str, Any], document={"openapi": "3.1.0"}))},
    ),
    Operation(
        "GET", "/docs", "getDocs", "Operators", "", "Read this document as a page",
        {200: Answer("The page.", (Body(str, {}, "text/html; charset=utf-8"),))},
    ),
    Operation(
        "GET", "/docs/{name}", "getDocsAsset", "Operators", "", "Fetch a part of that page",
        {
            200: Answer(
                "Its style, a script, or its icon.",
                (
                    Body(str, {}, "text/css; charset=utf-8"),
                    Body(str, {}, "text/javascript; charset=utf-8"),
                    Body(str, {}, "image/svg+xml"),
                ),
            )
        },
        parameters=(Parameter("name", str, "The file.", "path", "style.css", required=True),),
        refusals=(errors.RouteNotFound,),
    ),
)  # fmt: skip
