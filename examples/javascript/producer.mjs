// A producer: Node 20 or newer, nothing to install. `node producer.mjs FILE ..` has each file counted and hashed.
// In a browser the same calls work where the gateway is reached under the page's own origin.
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const GATEWAY = process.env.GATEWAY_URL ?? "http://127.0.0.1:8080";
const TOKEN = process.env.GATEWAY_TOKEN && { Authorization: `Bearer ${process.env.GATEWAY_TOKEN}` };

// GET, or POST a body. Comes again when a gateway has no room, or no time: after as long as it asks for.
async function call(path, body, headers = {}) {
  const options = { method: body ? "POST" : "GET", body: JSON.stringify(body), signal: AbortSignal.timeout(60_000) };
  options.headers = { "Content-Type": "application/json", ...TOKEN, ...headers };
  const reply = await fetch(GATEWAY + path, options);
  if (reply.status === 429 || reply.status === 503) {
    await sleep(Number(reply.headers.get("Retry-After")) * 1000);
    return call(path, body, headers);
  }
  if (!reply.ok) throw new Error(`${path}: ${await reply.text()}`);
  return reply.json();
}

// Prints what came of a task: its result, or its error so far. Without a result the exit code is 1.
function show({ status, result, error }) {
  console.log(status, JSON.stringify(status === "completed" ? result : error));
  if (status !== "completed") process.exitCode = 1;
}

const tasks = process.argv.slice(2).map((name) => ({ job_type: "file_process", payload: { path: resolve(name) } }));
const [first, ...rest] = tasks;

show(await call("/tasks", first, { Prefer: "wait=30" })); // answered when the task is final, at the latest after 30 s
if (rest.length > 0) {
  const batch = await call("/tasks?atomic=true", rest); // all of it is stored, or nothing
  for (const { id } of batch.tasks) show(await call(`/tasks/${id}?wait=30`));
}
