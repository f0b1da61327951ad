// Writes into the page without replacing what stays the same: what is selected, has the focus or is being clicked remains.

export const seconds = (ms) => (ms === null || ms === undefined ? '–' : `${(ms / 1000).toFixed(1)} s`);

// What a table is called: `whole`, or how many there are besides those that it shows.
export const titled = (shown, total, whole, part) => (shown < total ? `${shown} of ${total} ${part}` : whole);

export function element(name, text, attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  made.textContent = text;
  return made;
}

export function write(node, text) {
  const wanted = String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

// Pairs of a term and its value.
export function fill(list, pairs) {
  while (list.children.length > pairs.length) list.lastChild.remove();
  pairs.forEach(([term, value], index) => {
    if (index === list.children.length) {
      const pair = document.createElement('div');
      pair.append(document.createElement('dt'), document.createElement('dd'));
      list.append(pair);
    }
    const [name, said] = list.children[index].children;
    write(name, term);
    write(said, value);
  });
}

// Rows: `key` names the row, `cells` are texts or numbers, `press`, if there is one, is what its first cell does as a
// button, `look` a word for its appearance.
export function rows(table, wanted, none) {
  const body = table.tBodies[0];
  const old = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const shown = wanted.length ? wanted : [{ key: '', cells: [none], isAlone: true }];
  let after = null;
  for (const row of shown) {
    const line = old.get(row.key) ?? make(row, table.tHead.rows[0].cells.length);
    old.delete(row.key);
    line.className = row.look ?? '';
    row.cells.forEach((cell, index) => {
      const place = line.cells[index];
      write(row.press && index === 0 ? place.firstChild : place, cell);
      place.classList.toggle('number', typeof cell === 'number' || table.tHead.rows[0].cells[index].className === 'number');
    });
    const next = after ? after.nextSibling : body.firstChild;
    if (next !== line) body.insertBefore(line, next);
    after = line;
  }
  for (const gone of old.values()) gone.remove();
}

function make(row, span) {
  const line = document.createElement('tr');
  line.dataset.key = row.key;
  row.cells.forEach((_, index) => {
    const cell = document.createElement('td');
    if (row.isAlone) cell.colSpan = span;
    if (row.press && index === 0) {
      const button = element('button', '', { type: 'button' });
      button.addEventListener('click', row.press);
      cell.append(button);
    }
    line.append(cell);
  });
  return line;
}

// The newest lines of many, put into the page some at a time: a log of a hundred thousand events is read in seconds.
export class Tail {
  #waiting = [];
  #timer = null;

  constructor(list, countMax) {
    this.list = list;
    this.countMax = countMax;
  }

  clear() {
    this.#waiting = [];
    this.list.replaceChildren();
  }

  add(text) {
    this.#waiting.push(text);
    if (this.#waiting.length > 2 * this.countMax) this.#waiting.splice(0, this.countMax);
    this.#timer ??= setTimeout(() => this.#flush(), 100);
  }

  #flush() {
    this.#timer = null;
    const list = this.list, isAtEnd = list.scrollTop + list.clientHeight > list.scrollHeight - 40;
    list.append(...this.#waiting.slice(-this.countMax).map((text) => element('li', text)));
    this.#waiting = [];
    const tooMany = [...list.children].slice(0, Math.max(0, list.children.length - this.countMax));
    for (const line of tooMany) line.remove();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }
}
