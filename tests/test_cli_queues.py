"""What operators do to queues and to many tasks from the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.command_line import run, terminal
from tests.harness import LiveGateway, wait_until


async def settings_of(gateway: LiveGateway, name: str = "demo") -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.get(f"/queues/{name}/settings")).json()
    return found


async def statuses(gateway: LiveGateway) -> list[str]:
    return [one["status"] for one in (await gateway.get("/tasks")).json()["tasks"]]


async def marks(gateway: LiveGateway, mark: str) -> bool:
    """Whether the list of queues says so of the one that there is; its counts may be a second old."""
    return [line.split()[-1] for line in (await run(gateway.url, "queues")).lines] == ["paused", mark]


async def fail_all(gateway: LiveGateway) -> None:
    for task in await gateway.poll(max=100):
        assert (await gateway.report(task, "fail", error="no", retryable=False)).status_code == 200


async def test_settings_are_changed_one_by_one_and_taken_back(gateway: LiveGateway) -> None:
    await gateway.client.put("/queues/demo", json={"defaults": {"retry": {"delays_seconds": [1, 2]}}})
    ended = await run(
        gateway.url, "queue", "set", "demo", "--max-pending", "100", "--max-processing", "3",
        "--rate-per-second", "2.5", "--max-processing-per-key", "2", "--lease-seconds", "10", "--max-attempts", "4",
        "--retention-seconds", "0", "--timeout-seconds", "60",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    found = await settings_of(gateway)
    assert {name: found[name] for name in ("max_pending", "max_processing", "rate_per_second")} == {
        "max_pending": 100, "max_processing": 3, "rate_per_second": 2.5,
    }  # fmt: skip
    assert found["max_processing_per_key"] == 2
    assert found["defaults"] == {
        "lease_seconds": 10, "max_attempts": 4, "retention_seconds": 0, "timeout_seconds": 60,
        "retry": {"delays_seconds": [1, 2]},
    }  # fmt: skip
    ended = await run(
        gateway.url, "queue", "set", "demo", "--max-processing", "none", "--lease-seconds", "none", "--json"
    )
    found = json.loads(ended.out)
    assert (found["max_processing"], found["rate_per_second"]) == (None, 2.5)
    assert "lease_seconds" not in found["defaults"]
    assert (found["defaults"]["max_attempts"], found["defaults"]["retry"]) == (4, {"delays_seconds": [1, 2]})
    shown = [line.split(maxsplit=1) for line in (await run(gateway.url, "queue", "show", "demo")).lines]
    for row in (["paused", "no"], ["max_processing", "none"], ["rate_per_second", "2.5"], ["retention_seconds", "0"]):
        assert row in shown


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["set", "demo"], 2),
        (["set", "demo", "--max-pending", "many"], 2),
        (["set", "demo", "--max-pending", "0"], 1),
        (["set", "de/mo", "--max-pending", "5"], 1),
        (["pause", "demo", "--seconds", "5", "--until", "2030-01-31T08:00:00Z"], 2),
        (["pause", "demo", "--until", "tomorrow"], 1),
        (["purge", "demo"], 1),  # there is none
    ],
)
async def test_a_wrong_setting_changes_nothing(gateway: LiveGateway, arguments: list[str], code: int) -> None:
    ended = await run(gateway.url, "queue", *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert "Traceback" not in ended.err
    assert (await settings_of(gateway))["version"] == 0


async def test_a_paused_queue_is_shown_and_goes_on(gateway: LiveGateway) -> None:
    await gateway.enqueue()
    assert (await run(gateway.url, "queue", "pause", "demo")).out == "demo is paused until it is resumed\n"
    assert await gateway.poll() == []
    await wait_until(lambda: marks(gateway, "yes"))
    assert (await run(gateway.url, "queue", "resume", "demo")).out == "demo goes on\n"
    await wait_until(lambda: marks(gateway, "-"))
    assert len(await gateway.poll()) == 1
    ended = await run(gateway.url, "queue", "pause", "demo", "--until", "2030-01-31T08:00:00Z")
    assert ended.out == "demo is paused until 2030-01-31T08:00:00.000Z\n"
    found = json.loads((await run(gateway.url, "queue", "pause", "demo", "--seconds", "60", "--json")).out)
    assert found["paused_until"] is not None


async def test_a_purge_is_asked_about(gateway: LiveGateway) -> None:
    for _ in range(3):
        await gateway.enqueue(delay_seconds=60)
    nobody_there = await run(gateway.url, "queue", "purge", "demo")
    assert (nobody_there.code, "--yes" in nobody_there.err) == (2, True)
    with terminal(gateway.url, "queue", "purge", "demo") as one:
        await one.until("forget 3 waiting tasks of demo for good?")
        one.type("n\n")
        assert await one.ended() == 1
    assert len(await statuses(gateway)) == 3
    with terminal(gateway.url, "queue", "purge", "demo") as one:
        await one.until("for good?")
        one.type("y\n")
        assert await one.ended() == 0
        assert "3 tasks are gone" in one.text
    assert await statuses(gateway) == []
    assert (await run(gateway.url, "queue", "purge", "demo", "--yes")).out == "0 tasks are gone\n"


async def test_a_redrive_sends_failed_tasks_back_at_a_rate(gateway: LiveGateway) -> None:
    for team in ("a", "a", "a", "b"):
        await gateway.enqueue(tags={"team": team})
    await fail_all(gateway)
    dry = await run(gateway.url, "queue", "redrive", "demo", "--tag", "team:a", "--dry-run")
    assert (dry.out, await statuses(gateway)) == ("3\n", ["failed"] * 4)
    done = await run(gateway.url, "queue", "redrive", "demo", "--tag", "team:a", "--rate", "0.01")
    assert done.out == "3 of 3 sent back\n"
    assert sorted(await statuses(gateway)) == ["failed", "pending", "scheduled", "scheduled"]


async def test_tasks_are_cancelled_retried_and_deleted_by_what_they_have_in_common(gateway: LiveGateway) -> None:
    for number in range(4):
        await gateway.enqueue(tags={"odd": str(number % 2)})
    other = await gateway.enqueue("other")
    assert (await run(gateway.url, "cancel", "--type", "demo", "--tag", "odd:1", "--dry-run")).out == "2\n"
    assert (await run(gateway.url, "cancel", "--type", "demo", "--tag", "odd:1", "--yes")).out == "2 of 2 cancelled\n"
    assert sorted(await statuses(gateway)) == ["cancelled"] * 2 + ["pending"] * 3
    assert (await run(gateway.url, "retry", "--status", "cancelled,failed")).out == "2 of 2 sent back\n"
    refused = await run(gateway.url, "delete", "--type", "demo")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    found = json.loads((await run(gateway.url, "delete", "--type", "demo", "--yes", "--json")).out)
    assert (found["matched"], found["changed"]) == (4, 4)
    assert [one["id"] for one in (await gateway.get("/tasks")).json()["tasks"]] == [other["id"]]
    assert (await run(gateway.url, "cancel", "--all", "--yes")).out == "1 of 1 cancelled\n"


async def test_nothing_is_meant_by_chance(gateway: LiveGateway) -> None:
    task = await gateway.enqueue()
    for arguments in (
        ["cancel"],
        ["retry"],
        ["delete", "--yes"],
        ["cancel", task["id"], "--type", "demo"],
        ["cancel", task["id"], "--all"],
    ):
        ended = await run(gateway.url, *arguments)
        assert (ended.code, ended.out) == (2, ""), arguments
    assert await statuses(gateway) == ["pending"]
    with terminal(gateway.url, "cancel", "--type", "demo") as one:
        await one.until("cancel 1 tasks?")
        one.type("n\n")
        assert await one.ended() == 1
    assert await statuses(gateway) == ["pending"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["enqueue", "demo"],
        ["list"],
        ["cancel", "--yes"],
        ["retry"],
        ["delete", "--yes"],
        ["queue", "redrive", "demo"],
    ],
)
async def test_a_tag_that_is_none_changes_nothing_and_is_named(gateway: LiveGateway, arguments: list[str]) -> None:
    await gateway.enqueue(tags={"web": ""})
    for tags in (["web"], [":web"], ["web:1", "web:2"]):
        ended = await run(gateway.url, *arguments, *(word for tag in tags for word in ("--tag", tag)))
        assert (ended.code, ended.out) == (2, ""), tags
        assert f"--tag {tags[-1]}: " in ended.err
    assert await statuses(gateway) == ["pending"]


async def test_a_tag_may_be_empty_and_hold_colons(gateway: LiveGateway) -> None:
    ended = await run(gateway.url, "enqueue", "demo", "--tag", "at:08:00", "--tag", "web:", "--json")
    task = json.loads(ended.out)
    assert task["tags"] == {"at": "08:00", "web": ""}
    listed = await run(gateway.url, "list", "--tag", "web:", "--tag", "at:08:00", "--json")
    assert [json.loads(line)["id"] for line in listed.lines] == [task["id"]]
    assert (await run(gateway.url, "list", "--tag", "web:1", "--json")).out == ""


async def test_top_says_that_it_is_refused(gateway: LiveGateway) -> None:
    with terminal(gateway.url, "top", "--interval", "0.2") as one:
        await one.until("dispatch")
        await gateway.client.put("/tenants/default", json={"rate_limit_per_minute": 1})
        await wait_until(lambda: "refused (rate_limited)" in one.text)
        one.type("q")
        assert await one.ended() == 0
