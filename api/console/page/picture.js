// The picture of a response: who owned it, its turns, and what it put out, along one axis of time.
// Owns the drawing; is given a history and asks for nothing.

const NAMESPACE = 'http://www.w3.org/2000/svg';
const WIDTH = 960, LEFT = 70, RIGHT = 20, LANE = 26, GAP = 12;
const TOOLS = ['mcp_call', 'code_interpreter_call', 'web_search_call'];
const LETTER = 7; // About the width of one, in units of the picture.

function add(parent, name, attributes, text) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

export const isTool = (item) => TOOLS.includes(item.type);

// Items until the model goes on after their calls: one turn each.
export function turnsOf(items) {
  const turns = [];
  for (const [index, item] of items.entries()) {
    if (index === 0 || (isTool(items[index - 1]) && !isTool(item))) turns.push([]);
    turns.at(-1).push(item);
  }
  return turns;
}

// Those who owned it, each until the next one, or until the end. A cancel owns it, too.
export function ownersOf(history) {
  return history.grants.map((grant, index) => ({
    ...grant,
    untilMs: history.grants[index + 1]?.after_ms ?? history.endMs,
  }));
}

export function draw(svg, history) {
  const owners = ownersOf(history);
  const turns = turnsOf(history.items);
  const endMs = Math.max(history.endMs, 1000);
  const at = (ms) => LEFT + (Math.min(Math.max(ms, 0), endMs) / endMs) * (WIDTH - LEFT - RIGHT);
  const lanes = ['owners', 'turns', 'output'];
  const height = 30 + lanes.length * (LANE + GAP) + 24;
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${height}`);
  svg.replaceChildren();
  const top = (lane) => 30 + lane * (LANE + GAP);

  const step = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600].find((s) => endMs / 1000 / s <= 10) ?? 7200;
  for (let s = 0; s * 1000 <= endMs; s += step) {
    add(svg, 'line', { class: 'axis', x1: at(s * 1000), x2: at(s * 1000), y1: 24, y2: height - 22 });
    add(svg, 'text', { class: 'faint', x: at(s * 1000), y: height - 6, 'text-anchor': 'middle' }, `${s} s`);
  }
  lanes.forEach((name, lane) => add(svg, 'text', { class: 'faint', x: 0, y: top(lane) + 17 }, name));

  const bar = (lane, fromMs, untilMs, style, label) => {
    const x = at(fromMs), width = Math.max(at(untilMs) - x - 1, 2);
    add(svg, 'rect', { class: style, x, y: top(lane), width, height: LANE, rx: 3 });
    if (label.length * LETTER < width) {
      const textStyle = style.includes('turn') ? 'faint' : 'label';
      add(svg, 'text', { class: textStyle, x: x + 5, y: top(lane) + 17 }, label);
    }
  };
  bar(0, 0, owners[0]?.after_ms ?? history.endMs, 'wait', 'queued');
  owners.forEach((owner, index) => {
    bar(0, owner.after_ms, owner.untilMs, index % 2 ? 'own-b' : 'own-a', `${owner.attempt}: ${owner.owner}`);
  });
  turns.forEach((items, index) => {
    bar(1, items[0].fromMs, items.at(-1).untilMs ?? history.endMs, 'turn', `turn ${index + 1}`);
  });
  for (const item of history.items) {
    const style = `${isTool(item) ? 'tool' : 'model'}${item.isEstimated ? ' estimated' : ''}`;
    bar(2, item.fromMs, item.untilMs ?? history.endMs, style, item.label);
  }
  owners.slice(1).forEach((owner) => {
    const x = at(owner.after_ms);
    add(svg, 'line', { class: 'takeover', x1: x, x2: x, y1: 20, y2: height - 22 });
    const isRight = x > WIDTH - 120;
    add(svg, 'text', { class: 'takeover-text', x: isRight ? x - 4 : x + 4, y: 16, 'text-anchor': isRight ? 'end' : 'start' }, 'taken over');
  });
}

const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

// The same in words, for whoever does not see the picture.
export function describe(history) {
  const owners = ownersOf(history);
  const parts = [owners.length ? `Queued for ${seconds(owners[0].after_ms)}` : `Queued since ${seconds(history.endMs)}`];
  owners.forEach((owner, index) => {
    parts.push(`${index ? 'taken over' : 'begun'} by ${owner.owner} at ${seconds(owner.after_ms)}`);
  });
  const tools = history.items.filter(isTool).length;
  parts.push(`${turnsOf(history.items).length} turns, ${tools} tool calls, ${history.items.length} items`);
  parts.push(history.status ? `${history.status} after ${seconds(history.endMs)}` : `open for ${seconds(history.endMs)}`);
  const isEstimated = history.items.some((item) => item.isEstimated);
  const note = isEstimated ? ' Pale bars were there before this page looked: the log has their order, not their times.' : '';
  return `${parts.join('; ')}.${note}`;
}
