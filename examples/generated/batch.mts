// Posts rows as NDJSON with a generated client, waits until they are applied, and prints what became of them and of a visitor.
// Usage: node batch.mjs ROWS.ndjson THIRD_PARTY_ID. README.md says how the client is made, and this file compiled.

import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import createClient from 'openapi-fetch';
import type { components, paths } from './profiled.js';

type Problem = components['schemas']['Problem'];

const url = process.env.PROFILED_URL ?? 'http://127.0.0.1:8750';
const client = process.env.PROFILED_CLIENT ?? 'demo';
const token = process.env.PROFILED_TOKEN;

function end(message: string): never {
  console.error(message);
  process.exit(1);
}

// The answer, unless it is a problem.
function right<T>({ data, error }: { data?: T; error?: Problem }): T {
  if (error !== undefined) end(`${error.status} ${error.title}: ${error.detail}`);
  return data ?? end('the answer is none that the document describes');
}

const [rows, visitor] = process.argv.slice(2);
if (rows === undefined || visitor === undefined) end('usage: node batch.mjs ROWS.ndjson THIRD_PARTY_ID');

const daemon = createClient<paths>({
  baseUrl: url,
  headers: token === undefined ? {} : { Authorization: `Bearer ${token}` },
});
const accepted = await daemon.POST('/api/v1/batches', {
  params: { query: { client } },
  headers: { 'Content-Type': 'application/x-ndjson' },
  body: await readFile(rows, 'utf8'),
  bodySerializer: (rows) => rows,
});
const answer = right(accepted);
// What a dry run answers is no batch.
if (typeof answer === 'string' || !('batchId' in answer)) end('the answer is no batch');
let batch = answer;
console.log(`${batch.rows} rows were accepted`);
const path = { id: batch.batchId };
while (batch.status === 'incomplete') {
  await sleep(100);
  batch = right(await daemon.GET('/api/v1/batches/{id}', { params: { path } }));
}
const outcomes = right(
  await daemon.GET('/api/v1/batches/{id}/outcomes', {
    params: { path },
    headers: { Accept: 'application/x-ndjson' },
    parseAs: 'text',
  }),
);
for (const line of outcomes.trim().split('\n')) {
  const row: components['schemas']['Row'] = JSON.parse(line);
  console.log(`line ${row.line}: ${row.outcome} ${row.reason ?? ''}`.trimEnd());
}
const profile = right(
  await daemon.GET('/api/v1/profiles/{id}', { params: { path: { id: visitor }, query: { client } } }),
);
for (const [name, attribute] of Object.entries(profile.attributes).sort()) {
  console.log(`${visitor}: ${name} is ${attribute.value}`);
}
console.log(`${batch.counts.failed} rows failed`);
