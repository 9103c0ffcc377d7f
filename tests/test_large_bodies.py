"""Large requests take turns, so that many of them at once do not take all memory."""

from __future__ import annotations

import asyncio

from tests.harness import LiveGateway, wait_until


async def test_large_bodies_take_turns_and_small_ones_need_none(gateway: LiveGateway) -> None:
    payload = "x" * 200_000
    large = [asyncio.create_task(gateway.post("/tasks", {"job_type": "demo", "payload": payload})) for _ in range(60)]
    small = [(await gateway.post("/tasks", {"job_type": "demo"})).status_code for _ in range(20)]
    assert set(small) == {201}
    assert {reply.status_code for reply in await asyncio.gather(*large)} <= {201, 503}
    # Every turn was given back, also those of requests that were refused.
    refused = [gateway.post("/tasks", {"job_type": "demo", "nonsense": payload}) for _ in range(50)]
    assert {reply.status_code for reply in await asyncio.gather(*refused)} == {400}
    assert (gateway.app.guard.large_bodies.taken, gateway.app.guard.large_bodies.held_bytes) == (0, 0)


async def test_a_poll_with_a_large_body_keeps_no_turn_while_it_waits(gateway: LiveGateway) -> None:
    body = b'{"worker_id":"w","task_type":"idle","wait":50' + b" " * 100_000 + b"}"
    headers = {"Content-Type": "application/json"}
    polls = [asyncio.create_task(gateway.client.post("/poll", content=body, headers=headers)) for _ in range(40)]
    await wait_until(lambda: gateway.app.manager.open_polls == 40)
    assert (await gateway.post("/tasks", {"job_type": "demo", "payload": "x" * 200_000})).status_code == 201
    gateway.app.manager.close()
    assert {reply.status_code for reply in await asyncio.gather(*polls)} == {204}


async def test_who_promises_a_large_body_and_sends_none_holds_nobody_up(gateway: LiveGateway) -> None:
    head = b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
    stalled = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(60)]
    for _, writer in stalled:
        writer.write(head)
        await writer.drain()
    posted = await gateway.post("/tasks", {"job_type": "demo", "payload": "x" * 500_000}, timeout=9)
    assert posted.status_code == 201
    for _, writer in stalled:
        writer.close()


async def test_a_request_that_expects_100_and_is_refused_before_its_body_is_closed_behind(gateway: LiveGateway) -> None:
    """Its sender may leave the body out: what comes next could be read as either."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 29\r\nExpect: 100-continue\r\n\r\n")
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    answered = await asyncio.wait_for(reader.read(), 10)
    assert answered.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answered
    writer.close()
