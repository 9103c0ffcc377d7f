// A worker without an SDK: Node 20.3 or newer, nothing to install. Payload: {"path": "a file", "seconds": 0}.
import { createHash, randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const GATEWAY = process.env.GATEWAY_URL ?? "http://127.0.0.1:8080";
const WORKER = process.env.WORKER_ID ?? `node-${randomUUID().slice(0, 8)}`;
const TOKEN = process.env.GATEWAY_TOKEN && { Authorization: `Bearer ${process.env.GATEWAY_TOKEN}` };
const stopping = new AbortController();
process.on("SIGTERM", () => stopping.abort()).on("SIGINT", () => stopping.abort());

// The work. Whatever takes long listens to `signal` and ends early when that is aborted.
async function fileProcess({ path, seconds = 0 }, signal) {
  await sleep(seconds * 1000, undefined, { signal });
  const data = await readFile(path, { signal });
  const lines = data.filter((byte) => byte === 10).length;
  const words = (data.toString("latin1").match(/[^ \t\n\v\f\r]+/g) ?? []).length;
  return { bytes: data.length, lines, words, sha256: createHash("sha256").update(data).digest("hex") };
}

// Sends a request. Status 0: no gateway had an answer.
async function send(method, path, body, seconds = 10, signal = undefined) {
  const timeout = AbortSignal.timeout(seconds * 1000);
  const options = { method, headers: { "Content-Type": "application/json", ...TOKEN }, body: JSON.stringify(body) };
  options.signal = signal ? AbortSignal.any([timeout, signal]) : timeout;
  try {
    const reply = await fetch(GATEWAY + path, options);
    const text = await reply.text();
    if (reply.status >= 400) console.error(WORKER, path, reply.status, text);
    const members = reply.ok && text && JSON.parse(text); // a 204 has none
    return { directive: reply.headers.get("x-directive"), ...members, status: reply.status };
  } catch (error) {
    if (!signal?.aborted) console.error(WORKER, path, String(error.cause ?? error));
    return { status: 0 };
  }
}

// Repeats a request until it is answered: safe for reports, and for polls that have a poll_id.
async function insist(path, body, seconds) {
  for (let backoff = 100; ; backoff = Math.min(2 * backoff, 10_000)) {
    const reply = await send("POST", path, body, seconds, stopping.signal);
    if ((reply.status > 0 && reply.status < 500 && reply.status !== 429) || stopping.signal.aborted) return reply;
    await sleep(backoff * (0.5 + Math.random() / 2), undefined, { signal: stopping.signal }).catch(() => {});
  }
}

// Works on a task and keeps its lease meanwhile.
async function handle({ id, payload, lease_token, heartbeat_seconds }) {
  const letGo = new AbortController();
  const beat = setInterval(async () => {
    const reply = await send("POST", `/tasks/${id}/heartbeat`, { lease_token });
    if (reply.status === 404 || reply.status === 409) letGo.abort("lost");
    else if (reply.cancel_requested || reply.directive === "stop") letGo.abort("release");
  }, heartbeat_seconds * 1000);
  try {
    const result = await fileProcess(payload, AbortSignal.any([letGo.signal, stopping.signal]));
    const { status } = await insist(`/tasks/${id}/complete`, { lease_token, result });
    console.error(`${WORKER}: complete ${id}: ${status}`);
  } catch (error) {
    if (letGo.signal.reason === "release") await send("POST", `/tasks/${id}/release`, { lease_token });
    if (letGo.signal.aborted || stopping.signal.aborted) return; // lost: report nothing
    const { name: type, message } = error;
    const retryable = "errno" in error && error.code !== "ENOENT"; // a missing file stays missing
    const { status } = await insist(`/tasks/${id}/fail`, { lease_token, error: { type, message }, retryable });
    console.error(`${WORKER}: fail ${id}: ${status} ${message}`);
  } finally {
    clearInterval(beat);
  }
}

console.error(`${WORKER} polls ${GATEWAY} for file_process`);
let reply = { directive: "run" };
while (reply.directive === "run" && !stopping.signal.aborted) {
  const poll = { worker_id: WORKER, task_type: "file_process", wait: 25, poll_id: randomUUID() };
  reply = await insist("/poll", poll, 35);
  for (const task of reply.tasks ?? []) await handle(task);
}
await send("DELETE", `/workers/${WORKER}`, undefined, 3); // gives back what is in hand, too
process.exitCode = reply.directive || stopping.signal.aborted ? 0 : 1;
