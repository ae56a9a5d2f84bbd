#!/usr/bin/env node
// Posts a batch file, waits until it is complete, prints its counts, and keeps the failed rows beside it.
// Usage: node nightly.mjs FILE. See README.md for the variables.

import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

const url = process.env.PROFILED_URL ?? 'http://127.0.0.1:8750';
const client = process.env.PROFILED_CLIENT ?? 'demo';
const token = process.env.PROFILED_TOKEN;
const TRIES = 5;

function end(message) {
  console.error(message);
  process.exit(1);
}

// The answer's body. Tries again where the daemon is busy or away.
async function call(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  for (let attempt = 1; ; attempt += 1) {
    let wait = attempt;
    try {
      const answer = await fetch(url + path, { ...options, headers });
      const body = await answer.text();
      if (answer.ok) return body;
      if (![429, 503].includes(answer.status) || attempt === TRIES) end(`refused with ${answer.status}: ${body}`);
      wait = Number(answer.headers.get('Retry-After') ?? 1);
    } catch (error) {
      if (attempt === TRIES) end(`${url} does not answer: ${error.cause?.message ?? error.message}`);
    }
    await sleep(wait * 1000);
  }
}

const file = process.argv[2] ?? end('usage: node nightly.mjs FILE');
const rows = await readFile(file);
// The same file on the same day is the same batch, however often it is sent.
const sum = createHash('sha256').update(rows).digest('hex').slice(0, 32);
const key = `nightly-${new Date().toISOString().slice(0, 10)}-${sum}`;
const answer = await call(`/m2/${client}/v2/profile/batchUpdate`, {
  method: 'POST',
  headers: { 'Idempotency-Key': key, 'Content-Type': 'text/csv' },
  body: rows,
});
const id = /batchId=([^<]+)</.exec(answer)?.[1] ?? end(`refused: ${answer}`);
const batch = `/api/v1/batches/${id}`;
let state;
while ((state = JSON.parse(await call(`${batch}?client=${client}`))).status === 'incomplete') await sleep(1000);
console.log(JSON.stringify(state, null, 2));
if (state.status !== 'complete') end(`${id} is ${state.status}`);
if (state.counts.failed > 0) {
  await writeFile(`${file}.failed`, await call(`${batch}/repair?client=${client}`));
  end(`the failed rows are in ${file}.failed`);
}
