// BullMQ: `queue.add`, `queue.addBulk` and `new Worker`. Its command line is that of load.py, and `worker` beside it.
import { openSync, writeSync } from "node:fs";
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const connection = new Redis({ path: process.env.PEER_SOCKET, maxRetriesPerRequest: null });
const [verb, ...words] = process.argv.slice(2);
const numbers = words.map(Number);
const now = () => process.hrtime.bigint(); // CLOCK_MONOTONIC, which all processes share
const payload = () => now().toString().padStart(20, "0").padEnd(100, "x");
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const verbs = { worker, enqueue, send };
await verbs[verb](...numbers);
if (verb !== "worker") process.exit(0);

function worker() {
  const record = openSync(process.env.PEER_RECORD, "a");
  const entry = Buffer.alloc(16);
  const running = new Worker(
    "bench",
    async (job) => {
      entry.writeBigInt64LE(BigInt(job.data.slice(0, 20)), 0);
      entry.writeBigInt64LE(now(), 8);
      writeSync(record, entry);
    },
    { connection, concurrency: Number(process.env.PEER_CONCURRENCY) },
  );
  running.on("error", (error) => console.error(error));
  process.on("SIGTERM", async () => {
    await running.close();
    process.exit(0);
  });
}

async function enqueue(seconds, warmupSeconds, concurrency, batch, jobs) {
  const queue = new Queue("bench", { connection });
  await queue.waitUntilReady();
  const cpu = process.cpuUsage();
  const warm = performance.now() + warmupSeconds * 1000;
  const until = warm + seconds * 1000;
  const tookMs = [];
  let asked = 0;
  let counted = 0;
  let stored = 0;
  const caller = async () => {
    while (performance.now() < until && (jobs === 0 || (asked += batch) <= jobs)) {
      const start = performance.now();
      if (batch === 1) await queue.add("empty", payload());
      else await queue.addBulk(Array.from({ length: batch }, () => ({ name: "empty", data: payload() })));
      const end = performance.now();
      stored += batch;
      if (end < warm || end > until) continue;
      counted += batch;
      tookMs.push(end - start);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, caller));
  const measured = (Math.min(until, performance.now()) - warm) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  tookMs.sort((one, other) => one - other);
  const report = {
    jobs_per_second: measured > 0 ? counted / measured : 0,
    stored,
    cpu_seconds: (user + system) / 1e6,
    call_p50_ms: tookMs[Math.floor(tookMs.length / 2)] ?? 0,
    call_p99_ms: tookMs[Math.floor(0.99 * (tookMs.length - 1))] ?? 0,
  };
  console.log(JSON.stringify(report));
}

async function send(rate, seconds) {
  const queue = new Queue("bench", { connection });
  await queue.waitUntilReady();
  const begun = performance.now();
  const sent = [];
  for (let number = 0; number < Math.floor(rate * seconds); number++) {
    await pause(Math.max(0, begun + (number * 1000) / rate - performance.now()));
    sent.push(queue.add("empty", payload()));
  }
  await Promise.all(sent);
  console.log(JSON.stringify({ sent: sent.length }));
}
