// The page: the cluster, and the response that is shown. The playground is in `playground.js`.

import { ask, call, eventsOf, forgetKey, hasKey, keepKey, pause, takeKeyFromAddress } from './line.js';
import { describe, draw } from './picture.js';
import { wirePlayground } from './playground.js';
import { fill, rows, seconds, Tail, titled, write } from './tables.js';

const ENDS = ['completed', 'failed', 'incomplete', 'cancelled'].map((word) => `response.${word}`);
const POLL_MS = 1000, LOOK_MS = 500, EVENTS_MAX = 300, RATE_MS = 10000;
const $ = (id) => document.getElementById(id);
const events = new Tail($('events'), EVENTS_MAX);

// The cluster

let readings = []; // of the last seconds: when, how many were open, how many each worker had ended

function rates(view) {
  const ended = new Map(view.processes.filter((each) => each.about).map((each) => [each.name, each.about.ended ?? 0]));
  const now = { ms: performance.now(), open: view.open.total, ended };
  readings = [...readings.filter((each) => now.ms - each.ms <= RATE_MS), now];
  const first = readings[0], tookS = (now.ms - first.ms) / 1000;
  if (tookS < 2) return ['–', '–'];
  let endedSince = 0;
  for (const [name, count] of ended) endedSince += Math.max(0, count - (first.ended.get(name) ?? count));
  const begunSince = Math.max(0, endedSince + now.open - first.open);
  return [begunSince, endedSince].map((count) => (count / tookS).toFixed(1));
}

function showCluster(view) {
  const present = (role) => view.processes.filter((each) => each.role === role && each.is_present).length;
  const waiting = (begins) => view.queues.filter((queue) => queue.name.startsWith(begins))
    .reduce((sum, queue) => sum + queue.waiting, 0); // each model has a queue of its own
  const [begun, ended] = rates(view);
  fill($('figures'), [
    ['API nodes', present('api')], ['Workers', present('worker')], ['Tool runners', present('tool_runner')],
    ['Open responses', view.open.total], ['Waiting', waiting('responses')], ['Tool calls waiting', waiting('tools')],
    ['Begun a second', begun], ['Ended a second', ended], ['Cell', view.cell],
  ]);
  rows($('processes'), view.processes.map((each) => ({
    key: `${each.role} ${each.name}`,
    look: each.is_present ? '' : 'absent',
    cells: [
      each.role, each.name, each.is_present ? 'yes' : 'no',
      each.responses === null ? '–' : each.about ? `${each.responses} of ${each.about.capacity}` : String(each.responses),
      each.about ? each.about.served.map((served) => served[0]).join(', ') : '–',
    ],
  })), 'none');
  const flows = view.queues.reduce((sum, queue) => sum + queue.flows.length, 0);
  const flowsTotal = view.queues.reduce((sum, queue) => sum + queue.flows_total, 0);
  write($('queues-title'), titled(flows, flowsTotal, 'Waiting, by tenant and tier', 'that wait, by tenant and tier'));
  rows($('queues'), view.queues.flatMap((queue) => queue.flows.map((flow) => ({
    key: `${queue.name} ${flow.tenant} ${flow.tier}`,
    cells: [queue.name, flow.tenant, flow.tier, flow.waiting, seconds(flow.oldest_ms)],
  }))), 'Nothing waits.');
  const listed = view.open.responses;
  write($('open-title'), titled(listed.length, view.open.total, 'Open now', 'that are open'));
  rows($('open'), listed.map((each) => ({
    key: `${each.tenant}/${each.response_id}`,
    look: each.standing,
    press: () => show(each.tenant, each.response_id),
    cells: [each.response_id, each.tenant, each.standing, seconds(each.age_ms), each.owner || '–', each.attempt],
  })), 'No response is open.');
  $('playground').hidden = !view.is_local;
}

async function watchCluster() {
  let heardAt = new Date();
  for (;;) {
    try {
      showCluster(await ask('/console/cluster'));
      heardAt = new Date();
      state('Live');
    } catch (error) {
      if (error.status === 401 || error.status === 404) return shut(error.message);
      readings = [];
      const why = error.status ? error.message : 'This node does not answer.';
      state(`${why} What is shown is of ${heardAt.toLocaleTimeString()}. Trying again …`, true);
    }
    await pause(document.hidden ? 5 * POLL_MS : POLL_MS);
  }
}

function state(text, isBad = false) {
  write($('state'), text);
  $('state').classList.toggle('bad', isBad);
  $('inside').classList.toggle('stale', isBad);
}

function shut(why) {
  forgetKey();
  shown?.leaving.abort();
  shown = null;
  $('one').hidden = true;
  $('inside').hidden = true;
  $('entrance').hidden = false;
  state(why, true);
  $('key').focus();
}

function open() {
  $('entrance').hidden = true;
  $('inside').hidden = false;
  state('Connecting …');
  watchCluster();
}

// One response

let shown = null;

// `tenant`: '' for whichever has it. Returns what is shown from now on, or null.
async function show(tenant, id, movesFocus = true) {
  shown?.leaving.abort();
  const own = shown = {
    tenant, id, leaving: new AbortController(), line: new AbortController(),
    items: new Map(), last: -1, detail: null, status: '', endMs: 0, tookMs: 0,
  };
  try {
    await look(own);
  } catch (error) {
    if (own !== shown) return null;
    shown = null;
    write($('find-state'), error.status ? error.message : 'This node does not answer.');
    return null;
  }
  if (own !== shown) return null;
  events.clear();
  write($('find-state'), '');
  write($('one-title'), `Response ${id}`);
  $('one').hidden = false;
  showOne(own);
  if (movesFocus) $('one-title').focus();
  keepLooking(own);
  follow(own);
  return own;
}

const pathOf = (own, rest = '') => `/console/responses/${encodeURIComponent(own.id)}${rest}?tenant=${encodeURIComponent(own.tenant)}`;

async function look(own) {
  const detail = await ask(pathOf(own), { signal: own.leaving.signal });
  const { response } = detail;
  if (!own.detail) {
    own.tenant = response.tenant;
    own.acceptedMs = performance.now() - response.age_ms;
    own.before = detail.is_archived || response.status ? Infinity : detail.log_entries;
    own.joinedMs = response.age_ms;
  }
  own.detail = detail;
  const left = detail.grants.at(-1)?.until_ms;
  if (!response.status) own.endMs = response.age_ms;
  else own.endMs = left ?? Math.max(own.tookMs, detail.grants.at(-1)?.after_ms ?? 0); // an earlier version's has no `left`
}

async function keepLooking(own) {
  for (;;) {
    await pause(LOOK_MS);
    if (own !== shown) return;
    if (document.hidden) continue;
    try {
      await look(own);
      if (own !== shown) return;
      write($('one-state'), '');
      showOne(own);
      if (own.status && own.detail.response.status) return;
    } catch (error) {
      if (own !== shown) return;
      if (error.status === 404) return write($('one-state'), 'It is gone: Redis has forgotten it, or it was deleted.');
    }
  }
}

// Reads the log to its end, from where it was, however often the line is cut; a page that nobody sees holds none.
async function follow(own) {
  while (own === shown && !own.status) {
    if (!document.hidden) {
      own.line = new AbortController();
      const signal = AbortSignal.any([own.leaving.signal, own.line.signal]);
      try {
        const after = own.last < 0 ? '' : `&starting_after=${own.last}`;
        for await (const event of eventsOf(await call(pathOf(own, '/events') + after, { signal }))) {
          if (own !== shown) return;
          take(own, event);
        }
      } catch (error) {
        if (error.status === 401 || error.status === 404) return;
      }
    }
    await pause(LOOK_MS);
  }
}

function take(own, event) {
  if (event.sequence_number === undefined) return;
  own.last = event.sequence_number;
  const isEstimated = event.sequence_number < own.before;
  const place = { ms: performance.now() - own.acceptedMs, number: event.sequence_number, isEstimated };
  if (event.type === 'response.output_item.added') {
    const item = event.item;
    own.items.set(event.output_index, { type: item.type, label: item.name ?? item.type, from: place, until: null });
  } else if (event.type === 'response.output_item.done') {
    const item = own.items.get(event.output_index);
    if (item) item.until = place;
  } else if (ENDS.includes(event.type)) {
    own.status = event.response.status;
    own.tookMs = ((event.response.completed_at ?? 0) - event.response.created_at) * 1000; // to the second
  }
  const said = event.delta ?? event.text ?? event.arguments ?? '';
  events.add(`${String(event.sequence_number).padStart(6)}  ${event.type}  ${typeof said === 'string' ? said.slice(0, 80) : ''}`);
}

function historyOf(own) {
  const begunMs = own.detail.grants[0]?.after_ms ?? 0;
  const isWhole = !Number.isFinite(own.before);
  const known = isWhole ? own.last + 1 : own.before;
  const joinedMs = isWhole ? own.endMs : own.joinedMs;
  const msOf = (place) => (place.isEstimated ? begunMs + (place.number / Math.max(known, 1)) * (joinedMs - begunMs) : place.ms);
  const items = [...own.items.values()].map((item) => ({
    type: item.type,
    label: item.label,
    added: item.from.number,
    done: item.until?.number ?? null,
    fromMs: msOf(item.from),
    untilMs: item.until && msOf(item.until),
    // Times up to here are reckoned; null if all of them were seen.
    paleUntilMs: item.from.isEstimated ? (item.until?.isEstimated ? msOf(item.until) : joinedMs) : null,
  }));
  return { grants: own.detail.grants, items, endMs: own.endMs, status: own.status || own.detail.response.status };
}

function showOne(own) {
  const { response, ...detail } = own.detail;
  fill($('facts'), [
    ['Tenant', response.tenant], ['State', own.status || response.status || response.standing], ['Model', detail.model || '–'],
    ['Owner', response.owner || '–'], ['Attempts', response.attempt], ['Owners lost', response.owners_lost],
    ['Events', own.last + 1], ['Readers', response.is_background ? '–' : detail.readers],
  ]);
  const drawn = historyOf(own);
  draw($('picture'), drawn);
  write($('picture-text'), describe(drawn));
  rows($('calls'), detail.calls.map((each) => ({
    key: String(each.call_index),
    cells: [String(each.call_index), each.server_label, each.tool, each.standing, each.runner || '–', each.attempt],
  })), 'No call.');
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) shown?.line.abort();
});
$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  keepKey($('key').value.trim());
  $('key').value = '';
  open();
});
$('find-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const wanted = $('wanted').value.trim(), slash = wanted.lastIndexOf('/');
  show(wanted.slice(0, Math.max(slash, 0)), wanted.slice(slash + 1));
});
wirePlayground({
  show,
  readOwner: async (id) => {
    if (shown?.id !== id) return '';
    await look(shown).catch(() => null);
    const { standing, owner } = shown.detail.response;
    return standing === 'owned' ? owner : '';
  },
});

takeKeyFromAddress();
if (hasKey()) open();
else shut('Enter the key.');
