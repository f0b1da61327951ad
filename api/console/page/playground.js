// The playground: sends a prompt as any client would, cuts its line, kills the worker, and says what came of it.

import { ask, call, eventsOf, pause } from './line.js';
import { element } from './tables.js';

const ENDS = ['completed', 'failed', 'incomplete', 'cancelled'].map((word) => `response.${word}`);
const RETRY_MS = 500;
const $ = (id) => document.getElementById(id);

let page = null, play = null;

function note(text) {
  $('notes').append(element('li', text));
}

function api(path, options = {}) {
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${$('api-key').value || 'any'}` };
  return call(path, { ...options, headers });
}

async function send() {
  play?.line.abort();
  const own = play = { line: new AbortController(), id: '', last: -1, status: '', isCut: false, isWhole: true };
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
      if (error.status && error.status < 500) { note(error.message); break; }
    }
    if (own !== play || own.status) break;
    if (!own.id) { note('the line was cut before the response had an id'); break; }
    own.line = new AbortController();
    own.isCut = true;
    await pause(RETRY_MS);
  }
  if (own === play) $('cut').disabled = $('kill').disabled = true;
}

function hear(own, event) {
  if (own !== play || event.sequence_number === undefined) return;
  if (event.sequence_number !== own.last + 1) {
    own.isWhole = false;
    note(`event ${event.sequence_number} came after ${own.last}`);
  }
  own.last = event.sequence_number;
  if (event.type === 'response.created') {
    own.id = event.response.id;
    page.show('', own.id, false);
  }
  if (event.type === 'response.output_text.delta') $('said').append(event.delta);
  if (ENDS.includes(event.type)) {
    own.status = event.response.status;
    note(own.isWhole ? `${own.status}: events 0 to ${own.last}, each of them once and in order` : own.status);
  }
}

function cut() {
  note(`cut the line after event ${play.last}`);
  play.line.abort();
}

async function kill() {
  const own = play, owner = await page.readOwner(own.id);
  if (!owner) return note('no worker has it just now');
  try {
    await ask(`/console/workers/${encodeURIComponent(owner)}/kill`, { method: 'POST' });
    note(`killed ${owner} after event ${own.last}`);
  } catch (error) {
    note(error.message);
  }
}

// `show(tenant, id, movesFocus)` shows a response, `readOwner(id)` returns the worker that has it, or ''.
export function wirePlayground(given) {
  page = given;
  $('play-form').addEventListener('submit', (event) => {
    event.preventDefault();
    send();
  });
  $('cut').addEventListener('click', cut);
  $('kill').addEventListener('click', kill);
}
