// Asks the node. Owns the key, which stays in this tab, and how long an answer is waited for.

const KEY = 'antiphon-console-key';
const ANSWER_MS = 5000, SILENCE_MS = 60000; // A node sends a comment at least every fifteen seconds.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));
export const forgetKey = () => sessionStorage.removeItem(KEY);
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

// Takes the key out of the address, and out of what is copied from there.
export function takeKeyFromAddress() {
  if (location.hash.length < 2) return;
  const given = location.hash.slice(1);
  let key = given;
  try { key = decodeURIComponent(given); } catch { /* It is meant as it stands. */ }
  if (!document.getElementById(given)) keepKey(key); // the skip link leads to a part of the page
  history.replaceState(null, '', location.pathname);
}

export async function call(path, options = {}) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ''}`, ...options.headers };
  if (/[^\x20-\xff]/.test(headers.authorization)) throw new Refused(401, 'No key has such characters.');
  const late = new AbortController(), timer = setTimeout(() => late.abort(), ANSWER_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, late.signal]) : late.signal;
  try {
    const answer = await fetch(path, { ...options, headers, signal });
    if (answer.ok) return answer;
    const error = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, error.error?.message ?? `HTTP ${answer.status}`);
  } finally {
    clearTimeout(timer); // what follows the head has a patience of its own
  }
}

export async function ask(path, options = {}) {
  const late = AbortSignal.timeout(ANSWER_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, late]) : late;
  return (await call(path, { ...options, signal })).json();
}

// Events of an answer, until it ends, is cut, or is silent for longer than a node ever is.
export async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = [], data = [];
  try {
    for (;;) {
      let timer;
      const silence = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('silence')), SILENCE_MS); });
      const { value, done } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      if (done) return;
      const lines = value.split('\n');
      for (const [index, piece] of lines.entries()) {
        parts.push(piece);
        if (index === lines.length - 1) break; // goes on with the next piece
        const line = parts.join('');
        parts = [];
        if (line.startsWith('data: ')) data.push(line.slice(6));
        else if (line === '' && data.length) {
          yield JSON.parse(data.join('\n'));
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => null);
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
