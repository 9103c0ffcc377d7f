// A worker of the demo, in Node without packages: SHA-256, bytes and lines of {"path": "..", "seconds": 0}.
import { createHash, randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const { GATEWAY_URL, WORKER_ID, TASK_TYPE } = process.env;

async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  const reply = await fetch(GATEWAY_URL + path, { method: "POST", headers, body: JSON.stringify(body) });
  const text = await reply.text();
  return { status: reply.status, ...(text ? JSON.parse(text) : {}), ok: reply.ok };
}

async function handle({ id, payload, lease_token, heartbeat_seconds }) {
  const letGo = new AbortController();
  const beat = setInterval(async () => {
    const reply = await post(`/tasks/${id}/heartbeat`, { lease_token }).catch(() => ({ ok: true }));
    if (!reply.ok || reply.cancel_requested) letGo.abort();
  }, heartbeat_seconds * 1000);
  try {
    await sleep((payload.seconds ?? 0) * 1000, undefined, { signal: letGo.signal });
    const data = await readFile(payload.path);
    const lines = data.filter((byte) => byte === 10).length;
    const result = { sha256: createHash("sha256").update(data).digest("hex"), bytes: data.length, lines };
    await post(`/tasks/${id}/complete`, { lease_token, result });
  } catch (error) {
    if (letGo.signal.aborted) await post(`/tasks/${id}/release`, { lease_token });
    else await post(`/tasks/${id}/fail`, { lease_token, error: { type: error.code, message: error.message } });
  } finally {
    clearInterval(beat);
  }
}

for (;;) {
  const poll = { worker_id: WORKER_ID, task_type: TASK_TYPE.split(","), wait: 25, poll_id: randomUUID() };
  const reply = await post("/poll", poll).catch(() => sleep(500, {}));
  for (const task of reply.tasks ?? []) await handle(task);
}
