// Runs one scenario and prints its report as JSON: `node run.mjs CLIENT SCENARIO`, with its parameters as
// JSON on stdin, in a list, one entry per run. Owns nothing of what the clients do.

import { readFileSync, writeSync } from 'node:fs';

const [client, scenario] = process.argv.slice(2);
const known = JSON.parse(readFileSync(0, 'utf8'));
const { [scenario]: play } = await import(`./${client}.mjs`);
const report = [];
for (const one of known) report.push(await play(one));
writeSync(1, JSON.stringify(report));
process.exit(0); // some clients leave timers behind
