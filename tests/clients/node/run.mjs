// Runs one scenario and prints its report as JSON: `node run.mjs CLIENT SCENARIO`, with what it is to know as
// JSON on stdin. Owns nothing of what the clients do.

import { readFileSync, writeSync } from 'node:fs';

const [client, scenario] = process.argv.slice(2);
const known = JSON.parse(readFileSync(0, 'utf8'));
const scenarios = await import(`./${client}.mjs`);
const report = await scenarios[scenario](known);
writeSync(1, JSON.stringify(report));
process.exit(0); // some clients leave timers behind
