// The page: what it asks the node for, and what it shows of that. Owns the key, which stays in this tab.

import { describe, draw } from './picture.js';

const KEY = 'antiphon-console-key';
const ENDS = ['completed', 'failed', 'incomplete', 'cancelled'].map((word) => `response.${word}`);
const POLL_MS = 1000, LOOK_MS = 500, EVENTS_MAX = 300, RATE_S = 10;
const $ = (id) => document.getElementById(id);

if (location.hash.length > 1) {
  sessionStorage.setItem(KEY, decodeURIComponent(location.hash.slice(1)));
  history.replaceState(null, '', location.pathname); // out of the address, and out of what is copied from there
}

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ''}`, ...options.headers };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const error = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, error.error?.message ?? `HTTP ${answer.status}`);
}

const ask = async (path, options) => (await call(path, options)).json();

// Events of an answer, until it ends or is cut.
async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split('\n').filter((line) => line.startsWith('data: ')).map((line) => line.slice(6));
      if (data.length) yield JSON.parse(data.join('\n'));
    }
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const seconds = (ms) => (ms === null ? '–' : `${(ms / 1000).toFixed(1)} s`);

function element(name, text, attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  made.textContent = text;
  return made;
}

function fill(list, pairs) {
  list.replaceChildren(...pairs.map(([term, value]) => {
    const pair = document.createElement('div');
    pair.append(element('dt', term), element('dd', String(value)));
    return pair;
  }));
}

// Rows of cells, each a text, a number or an element. What has the focus keeps it.
function rows(table, cells, none) {
  const body = table.tBodies[0], focused = body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const span = table.tHead.rows[0].cells.length;
  body.replaceChildren(...(cells.length ? cells : [[none]]).map((row) => {
    const line = document.createElement('tr');
    for (const cell of row) {
      const made = document.createElement('td');
      made.append(cell instanceof Node ? cell : String(cell));
      if (typeof cell === 'number') made.className = 'number';
      if (row.length === 1) made.colSpan = span;
      line.append(made);
    }
    return line;
  }));
  if (focused) [...body.querySelectorAll('button')].find((button) => button.dataset.key === focused)?.focus();
}

// The cluster

const seen = { open: new Map(), begun: [], ended: [], isFirst: true };

function rates(responses) {
  const now = Date.now(), present = new Map(responses.map((each) => [each.response_id, each]));
  if (!seen.isFirst) {
    for (const id of present.keys()) if (!seen.open.has(id)) seen.begun.push(now);
    for (const id of seen.open.keys()) if (!present.has(id)) seen.ended.push(now);
  }
  seen.open = present;
  seen.isFirst = false;
  for (const list of [seen.begun, seen.ended]) while (list[0] < now - RATE_S * 1000) list.shift();
  return [seen.begun, seen.ended].map((list) => (list.length / RATE_S).toFixed(1));
}

function showCluster(view) {
  const present = (role) => view.processes.filter((each) => each.role === role && each.is_present).length;
  const waiting = (begins) => view.queues.filter((queue) => queue.name.startsWith(begins))
    .reduce((sum, queue) => sum + queue.waiting, 0); // each model has a queue of its own
  const [begun, ended] = rates(view.open.responses);
  fill($('figures'), [
    ['API nodes', present('api')], ['Workers', present('worker')], ['Tool runners', present('tool_runner')],
    ['Open responses', view.open.total], ['Waiting', waiting('responses')], ['Tool calls waiting', waiting('tools')],
    ['Begun a second', begun], ['Ended a second', ended], ['Cell', view.cell],
  ]);
  rows($('processes'), view.processes.map((each) => [
    each.role, each.name, each.is_present ? 'yes' : 'no', each.responses ?? '–',
  ]), 'none');
  rows($('queues'), view.queues.flatMap((queue) => queue.flows.map((flow) => [
    queue.name, flow.tenant, flow.tier, flow.waiting, seconds(flow.oldest_ms),
  ])), 'Nothing waits.');
  rows($('open'), view.open.responses.map((each) => {
    const button = element('button', each.response_id, { type: 'button' });
    button.dataset.key = each.response_id;
    button.addEventListener('click', () => show(each.tenant, each.response_id));
    return [button, each.tenant, each.standing, seconds(each.age_ms), each.owner || '–', each.attempt];
  }), 'No response is open.');
  $('playground').hidden = !view.is_local;
}

async function watchCluster() {
  for (;;) {
    try {
      showCluster(await ask('/console/cluster'));
      state('');
    } catch (error) {
      if (error.status === 401) return shut(error.message);
      state(error.message || 'The node does not answer.', true);
    }
    await pause(document.hidden ? 5 * POLL_MS : POLL_MS);
  }
}

function state(text, isBad = false) {
  if ($('state').textContent !== (text || 'Live')) $('state').textContent = text || 'Live';
  $('state').classList.toggle('bad', isBad);
}

function shut(why) {
  sessionStorage.removeItem(KEY);
  state(why, true);
  $('inside').hidden = true;
  $('entrance').hidden = false;
  $('key').focus();
}

function open() {
  $('entrance').hidden = true;
  $('inside').hidden = false;
  state('');
  watchCluster();
}

// One response

let shown = null;

async function show(tenant, id, movesFocus = true) {
  shown?.leaving.abort();
  const own = shown = { tenant, id, leaving: new AbortController(), items: new Map(), last: -1, detail: null, status: '', endMs: 0 };
  $('events').replaceChildren();
  try {
    await look(own);
  } catch (error) {
    if (own === shown) state(error.message, true);
    return;
  }
  $('one').hidden = false;
  $('one-title').textContent = `Response ${id}`;
  if (movesFocus) $('one-title').focus();
  keepLooking(own);
  follow(own);
}

const pathOf = (own, rest = '') => `/console/responses/${own.id}${rest}?tenant=${encodeURIComponent(own.tenant)}`;

async function look(own) {
  const detail = await ask(pathOf(own), { signal: own.leaving.signal });
  if (!own.detail) {
    own.acceptedMs = Date.now() - detail.response.age_ms;
    own.before = detail.is_archived || detail.response.status ? Infinity : detail.log_entries;
    own.joinedMs = detail.response.age_ms;
  }
  own.detail = detail;
}

async function keepLooking(own) {
  while (own === shown) {
    try {
      const wasOpen = !own.status;
      await look(own);
      if (own !== shown) return;
      if (wasOpen) own.endMs = own.status ? own.endMs : own.detail.response.age_ms;
      showOne(own);
      if (own.status) return;
    } catch (error) {
      if (own.leaving.signal.aborted) return;
      state(error.message, true);
    }
    await pause(LOOK_MS);
  }
}

// Reads the log to its end, from where it was, however often the line is cut.
async function follow(own) {
  while (own === shown && !own.status) {
    try {
      const after = own.last < 0 ? '' : `&starting_after=${own.last}`;
      for await (const event of eventsOf(await call(pathOf(own, '/events') + after, { signal: own.leaving.signal }))) {
        take(own, event);
      }
    } catch (error) {
      if (own.leaving.signal.aborted) return;
    }
    if (!own.status) await pause(LOOK_MS);
  }
}

function take(own, event) {
  if (event.sequence_number === undefined) return;
  own.last = event.sequence_number;
  const nowMs = Date.now() - own.acceptedMs;
  const isEstimated = event.sequence_number < own.before;
  const place = { ms: nowMs, number: event.sequence_number, isEstimated };
  if (event.type === 'response.output_item.added') {
    const item = event.item;
    own.items.set(event.output_index, { type: item.type, label: item.name ?? item.type, from: place, until: null });
  } else if (event.type === 'response.output_item.done') {
    const item = own.items.get(event.output_index);
    if (item) item.until = place;
  } else if (ENDS.includes(event.type)) {
    own.status = event.response.status;
    const took = ((event.response.completed_at ?? 0) - event.response.created_at) * 1000;
    own.endMs = isEstimated ? Math.max(took, own.detail.grants.at(-1)?.after_ms ?? 0, 1000) : nowMs;
    showOne(own);
  }
  const said = event.delta ?? event.text ?? event.arguments ?? '';
  const list = $('events'), isAtEnd = list.scrollTop + list.clientHeight > list.scrollHeight - 40;
  list.append(element('li', `${String(event.sequence_number).padStart(5)}  ${event.type}  ${typeof said === 'string' ? said.slice(0, 80) : ''}`));
  while (list.children.length > EVENTS_MAX) list.firstChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

function historyOf(own) {
  const begunMs = own.detail.grants[0]?.after_ms ?? 0;
  const known = Number.isFinite(own.before) ? own.before : own.last + 1;
  const joinedMs = Number.isFinite(own.before) ? own.joinedMs : own.endMs;
  const msOf = (place) => (place.isEstimated ? begunMs + (place.number / Math.max(known, 1)) * (joinedMs - begunMs) : place.ms);
  const items = [...own.items.values()].map((item) => ({
    type: item.type, label: item.label, fromMs: msOf(item.from), untilMs: item.until && msOf(item.until),
    isEstimated: item.from.isEstimated,
  }));
  return { grants: own.detail.grants, items, endMs: own.endMs, status: own.status };
}

function showOne(own) {
  const { response, ...detail } = own.detail;
  fill($('facts'), [
    ['Tenant', response.tenant], ['State', own.status || response.standing], ['Model', detail.model || '–'],
    ['Owner', response.owner || '–'], ['Attempts', response.attempt], ['Owners lost', response.owners_lost],
    ['Events', own.last + 1], ['Readers', response.is_background ? '–' : detail.readers],
  ]);
  const drawn = historyOf(own);
  draw($('picture'), drawn);
  if ($('picture-text').textContent !== describe(drawn)) $('picture-text').textContent = describe(drawn);
  rows($('calls'), detail.calls.map((each) => [
    each.call_index, each.server_label, each.tool, each.standing, each.runner || '–', each.attempt,
  ]), 'No call.');
}

// The playground

let play = null;

function note(text) {
  $('notes').append(element('li', text));
}

function api(path, options = {}) {
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${$('api-key').value || 'any'}` };
  return call(path, { ...options, headers });
}

async function send() {
  play?.line.abort();
  const own = play = { line: new AbortController(), id: '', last: -1, status: '', isCut: false };
  $('said').textContent = '';
  $('notes').replaceChildren();
  $('cut').disabled = $('kill').disabled = false;
  const body = { model: 'default', input: $('prompt').value, stream: true, background: true };
  if ($('python').checked) body.tools = [{ type: 'code_interpreter', container: { type: 'auto' } }];
  while (own === play && !own.status) {
    try {
      const answer = own.id
        ? await api(`/v1/responses/${own.id}?stream=true&starting_after=${own.last}`, { signal: own.line.signal })
        : await api('/v1/responses', { method: 'POST', body: JSON.stringify(body), signal: own.line.signal });
      if (own.isCut) note(`resumed after event ${own.last}`);
      own.isCut = false;
      for await (const event of eventsOf(answer)) hear(own, event);
    } catch (error) {
      if (error.status) { note(error.message); break; }
    }
    if (own !== play || own.status) break;
    if (!own.id) { note('the line was cut before the response had an id'); break; }
    own.line = new AbortController();
    own.isCut = true;
    await pause(LOOK_MS);
  }
  if (own === play) $('cut').disabled = $('kill').disabled = true;
}

function hear(own, event) {
  if (event.sequence_number === undefined) return;
  if (event.sequence_number !== own.last + 1) note(`event ${event.sequence_number} came after ${own.last}`);
  own.last = event.sequence_number;
  if (event.type === 'response.created') {
    own.id = event.response.id;
    findTenant(own);
  }
  if (event.type === 'response.output_text.delta') $('said').append(event.delta);
  if (ENDS.includes(event.type)) {
    own.status = event.response.status;
    note(`${own.status}: events 0 to ${own.last}, each of them once and in order`);
  }
}

// The API does not say which tenant a key is: the list of what is open does.
async function findTenant(own) {
  for (let i = 0; i < 10 && own === play; i++) {
    const view = await ask('/console/cluster').catch(() => null);
    const found = view?.open.responses.find((each) => each.response_id === own.id);
    if (found) return show(found.tenant, own.id, false);
    await pause(LOOK_MS);
  }
}

function cut() {
  note(`cut the line after event ${play.last}`);
  play.line.abort();
}

async function kill() {
  if (shown?.id !== play.id) return note('the response has not been found yet');
  await look(shown).catch(() => null);
  const owner = shown.detail.response.owner;
  if (!owner) return note('it has no worker yet');
  try {
    await ask(`/console/workers/${encodeURIComponent(owner)}/kill`, { method: 'POST' });
    note(`killed ${owner} after event ${play.last}`);
  } catch (error) {
    note(error.message);
  }
}

$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $('key').value);
  $('key').value = '';
  open();
});
$('find-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const wanted = $('wanted').value.trim(), slash = wanted.lastIndexOf('/');
  show(slash < 0 ? 'default' : wanted.slice(0, slash), wanted.slice(slash + 1));
});
$('play-form').addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
$('cut').addEventListener('click', cut);
$('kill').addEventListener('click', kill);

if (sessionStorage.getItem(KEY)) open();
else shut('Enter the key.');
