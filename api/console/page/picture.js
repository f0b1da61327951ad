// The picture of a response: who owned it, its turns, and what it put out, along one axis of time.
// Owns the drawing; is given a history and asks for nothing.

const NAMESPACE = 'http://www.w3.org/2000/svg';
const WIDTH = 960, LEFT = 70, RIGHT = 20, LANE = 28, GAP = 12, TOP = 34;
const HOSTED = ['mcp_call', 'code_interpreter_call', 'web_search_call']; // their results go back to the model
const LETTER = 7; // About the width of one, in units of the picture.
const STEPS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400];

function add(parent, name, attributes, text) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

export const isTool = (item) => item.type.endsWith('_call') || item.type === 'mcp_list_tools';

// Items until the model reads the results of their calls: one turn each. The calls of a turn are all written before the
// first of them ends. A compaction is a turn of its own; tools are listed before the first one.
export function turnsOf(items) {
  const turns = [];
  let calls = []; // of the present turn
  let previous = null;
  for (const item of items.filter((each) => each.type !== 'mcp_list_tools')) {
    const isRead = calls.length > 0 && calls.every((call) => call.done !== null && call.done < item.added);
    if (previous === null || isRead || item.type === 'compaction' || previous.type === 'compaction') {
      turns.push([]);
      calls = [];
    }
    turns.at(-1).push(item);
    if (HOSTED.includes(item.type)) calls.push(item);
    previous = item;
  }
  return turns;
}

const isWorker = (owner) => owner.startsWith('worker');

// The stretches of the first lane: who had it, and when nobody did. `kind`: queued, owned, waits (handed over, not yet
// taken), silent (its owner was not heard of any more).
export function stretchesOf(history) {
  const { grants, endMs } = history;
  const stretches = [{ kind: 'queued', fromMs: 0, untilMs: grants[0]?.after_ms ?? endMs }];
  grants.forEach((grant, index) => {
    const nextMs = grants[index + 1]?.after_ms ?? endMs;
    const untilMs = Math.min(grant.until_ms ?? nextMs, nextMs);
    stretches.push({ kind: 'owned', index, grant, fromMs: grant.after_ms, untilMs });
    const between = { handed_over: 'waits', lost: 'silent' }[grant.parting];
    if (between && nextMs > untilMs) stretches.push({ kind: between, fromMs: untilMs, untilMs: nextMs });
  });
  return stretches;
}

// How the response came from one owner to the next.
export function changesOf(history) {
  return history.grants.slice(1).map((grant, index) => {
    const { parting } = history.grants[index];
    const word = !isWorker(grant.owner) ? 'ended from outside' : parting === 'handed_over' ? 'handed over' : 'taken over';
    return { ms: grant.after_ms, owner: grant.owner, word, style: word === 'taken over' ? 'takeover' : 'handover' };
  });
}

export function draw(svg, history) {
  const endMs = Math.max(history.endMs, 100);
  const at = (ms) => LEFT + (Math.min(Math.max(ms, 0), endMs) / endMs) * (WIDTH - LEFT - RIGHT);
  const lanes = ['owners', 'turns', 'output'];
  const height = TOP + lanes.length * (LANE + GAP) + 20;
  const top = (lane) => TOP + lane * (LANE + GAP);
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${height}`);
  svg.replaceChildren();

  const step = STEPS_S.find((s) => endMs / 1000 / s <= 10) ?? endMs / 10000;
  for (let s = 0, n = 0; s * 1000 <= endMs; n += 1, s = n * step) {
    add(svg, 'line', { class: 'axis', x1: at(s * 1000), x2: at(s * 1000), y1: TOP - 6, y2: height - 20 });
    add(svg, 'text', { class: 'faint', x: at(s * 1000), y: height - 5, 'text-anchor': 'middle' }, `${Number(s.toFixed(1))} s`);
  }
  lanes.forEach((name, lane) => add(svg, 'text', { class: 'faint', x: 0, y: top(lane) + 18 }, name));

  // What is thinner than it can be seen next to its like is left out, so that a thousand items cost no more than hundreds.
  const drawnTo = [0, 0, 0];
  const bar = (lane, fromMs, untilMs, style, label, labelStyle) => {
    const x = at(fromMs), width = Math.max(at(untilMs) - x - 1, 2);
    if (width <= 2 && x + width < drawnTo[lane] + 1) return;
    drawnTo[lane] = x + width;
    const drawn = add(svg, 'rect', { class: style, x, y: top(lane), width, height: LANE, rx: 4 });
    add(drawn, 'title', {}, `${label}: ${seconds(fromMs)} to ${seconds(untilMs)}`);
    const fits = [label, label.split(': ')[0]].find((text) => text.length * LETTER < width - 8);
    if (fits) add(svg, 'text', { class: labelStyle, x: x + 7, y: top(lane) + 18 }, fits);
  };
  const names = { queued: 'queued', waits: 'waits', silent: 'silent' };
  for (const each of stretchesOf(history)) {
    if (each.untilMs <= each.fromMs) continue;
    if (each.kind === 'owned') {
      const label = `${each.grant.attempt}: ${each.grant.owner}`;
      bar(0, each.fromMs, each.untilMs, each.index % 2 ? 'own-b' : 'own-a', label, 'label');
    } else bar(0, each.fromMs, each.untilMs, each.kind === 'silent' ? 'silent' : 'wait', names[each.kind], 'ink');
  }
  turnsOf(history.items).forEach((items, index) => {
    const label = items[0].type === 'compaction' ? 'compaction' : `turn ${index + 1}`;
    bar(1, items[0].fromMs, items.at(-1).untilMs ?? history.endMs, 'turn', label, 'faint');
  });
  for (const item of history.items) {
    const style = isTool(item) ? 'tool' : item.type === 'reasoning' ? 'thought' : 'model', untilMs = item.untilMs ?? history.endMs;
    const paleMs = item.paleUntilMs === null ? item.fromMs : Math.min(item.paleUntilMs, untilMs);
    if (paleMs > item.fromMs) bar(2, item.fromMs, paleMs, `${style} estimated`, item.label, 'ink');
    if (untilMs > paleMs) bar(2, paleMs, untilMs, style, paleMs - item.fromMs > untilMs - paleMs ? '' : item.label, 'label');
  }
  let freeFrom = 0;
  for (const change of changesOf(history)) {
    const x = at(change.ms), isRight = x > WIDTH - 130;
    add(svg, 'line', { class: change.style, x1: x, x2: x, y1: TOP - 14, y2: height - 20 });
    const from = isRight ? x - 4 - change.word.length * LETTER : x + 4;
    if (from < freeFrom) continue; // the line stands for it; the words are below
    freeFrom = from + change.word.length * LETTER + 8;
    add(svg, 'text', { class: `${change.style}-text`, x: isRight ? x - 4 : x + 4, y: TOP - 18, 'text-anchor': isRight ? 'end' : 'start' }, change.word);
  }
}

const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
const count = (number, noun) => `${number} ${noun}${number === 1 ? '' : 's'}`;

// The same in words, for whoever does not see the picture.
export function describe(history) {
  const { grants, items } = history;
  const parts = [grants.length ? `Queued for ${seconds(grants[0].after_ms)}` : `Queued since ${seconds(history.endMs)}`];
  if (grants.length) parts.push(`begun by ${grants[0].owner} at ${seconds(grants[0].after_ms)}`);
  const changes = changesOf(history);
  const isMany = changes.length > 8;
  if (isMany) parts.push(`${changes.length} changes of owner, the last ones:`);
  for (const change of changes.slice(isMany ? -4 : 0)) parts.push(`${change.word} ${change.word === 'handed over' ? 'to' : 'by'} ${change.owner} at ${seconds(change.ms)}`);
  const tools = items.filter(isTool).length;
  parts.push(`${count(turnsOf(items).length, 'turn')}, ${count(tools, 'tool call')}, ${count(items.length, 'item')}`);
  parts.push(history.status ? `${history.status} after ${seconds(history.endMs)}` : `open for ${seconds(history.endMs)}`);
  const isEstimated = items.some((item) => item.paleUntilMs !== null);
  const note = isEstimated ? ' Pale stretches were there before this page looked: the log has their order, not their times.' : '';
  return `${parts.join('; ')}.${note}`;
}
