// One tab's side of a review: the answers on their way, and the cards it holds. Nothing is decided here and nothing is the truth:
// an event is kept until the server says that it is on its disk, and sent again until then. Events name images, never positions.

const RESEND_AFTER_MS = 5000;
const KEPT_CARDS = 160;
const KEPT_ANSWERS = 300; // that can be taken back after a refresh

function newClient() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function deskOf(csv) {
  if (!held.desks.has(csv)) held.desks.set(csv, new Desk(csv));
  return held.desks.get(csv);
}

class Desk {
  constructor(csv) {
    this.csv = csv;
    this.client = newClient(); // anew with every load: a duplicated tab must not number its events like the first one
    this.backlog = []; // [{client, events}] that an earlier load of this tab left unsaved
    this.events = [];
    this.next = 0;
    this.answered = 0;
    this.cards = new Map(); // id -> card, least recently used first
    this.order = []; // ids; the first is on screen
    this.front = []; // ids that an undo gave back
    this.history = []; // [{client, n, size, who, ids, begun}] of this tab, for undo; those of an earlier load without ids
    this.clients = []; // the ids of this tab's loads that answered something
    this.tally = null; // {answered, skipped}: cells of this tab, as the log has them
    this.begun = 0; // how often what is asked for has changed
    this.epoch = null;
    this.serial = null;
    this.sentAt = 0;
    this.attempt = 0;
    this.isOwed = false; // something was asked for while somebody seemed to leave the page
    this.error = "";
    this.refused = []; // [{cell, why}] until it is saved after all, or dismissed
    this.contradictions = []; // answers that count in the place of others of the same name, given in another tab; until read or taken back
    this.heard = new Set(); // which of them were told
    this.wantLatest = false;
    this.chosenBefore = []; // ids that had been clicked in the grid, of what an undo gave back
    this.latest = null; // what an undo would take back that is not of this tab: asked first
    this.last = null;
    this.full = null; // {id, url}
    this.wantFull = null;
    this.heat = false;
    this.notes = {}; // what is written to a cell's answer, until that is given: by the cell's name, as ids are another run's
    this.revealed = new Set(); // ids whose answer by the CSV and the model was shown
    this.restore();
  }

  // --- what survives a refresh

  key() {
    return `${UNSAVED}${this.csv}`;
  }

  restore() {
    try {
      this.backlog = JSON.parse(sessionStorage.getItem(this.key()) ?? "[]").filter((part) => part.events.length);
    } catch {
      this.backlog = [];
    }
    try {
      const past = JSON.parse(sessionStorage.getItem(this.pastKey()) ?? "{}");
      this.history = (past.history ?? []).map((one) => ({ ...one, ids: [] }));
      this.clients = past.clients ?? [];
    } catch {
      this.history = [];
    }
    try {
      this.notes = JSON.parse(sessionStorage.getItem(this.notesKey()) ?? "{}");
    } catch {
      this.notes = {};
    }
  }

  notesKey() {
    return `panorama-notes:${this.csv}`;
  }

  note(card) {
    return this.notes[cellOf(card)] ?? "";
  }

  // Kept with every letter; an answer takes it along, and is kept itself until it is stored.
  write(card, text) {
    if (text) this.notes[cellOf(card)] = text;
    else delete this.notes[cellOf(card)];
    try {
      sessionStorage.setItem(this.notesKey(), JSON.stringify(this.notes));
    } catch {
      // a full or forbidden store: a refresh loses it
    }
  }

  pastKey() {
    return `panorama-answers:${this.csv}`;
  }

  persist() {
    const parts = [...this.backlog, { client: this.client, events: this.events }].filter((part) => part.events.length);
    try {
      if (parts.length) sessionStorage.setItem(this.key(), JSON.stringify(parts));
      else sessionStorage.removeItem(this.key());
    } catch {
      // a full or forbidden store: the page still asks before it is closed
    }
    try {
      const history = this.history.slice(-KEPT_ANSWERS).map(({ ids, begun, chosen, ...one }) => one);
      sessionStorage.setItem(this.pastKey(), JSON.stringify({ history, clients: this.clients }));
    } catch {
      // without it, a refresh makes the next undo ask
    }
  }

  unsaved() {
    return this.events.length + this.backlog.reduce((sum, part) => sum + part.events.length, 0);
  }

  // --- what goes out

  push(events, ids) {
    const first = this.next;
    const who = this.data.reviewer; // of this press; the name may be another one when it is saved
    const seen = ids.length ? Math.min(...ids.map((id) => this.cards.get(id)?.seen ?? 0)) : 0;
    for (const event of events) this.events.push({ ...event, who, seen, n: this.next++ });
    this.latest = null;
    this.history.push({ client: this.client, n: first, size: events.length, who, ids, begun: this.begun });
    if (!this.clients.includes(this.client)) this.clients.push(this.client);
    this.answered += ids.length;
    this.persist();
    this.send();
  }

  // This tab's latest answer, whatever was answered elsewhere by the same name; where it has none, the server is asked for another one.
  undo(past = this.history.pop()) {
    this.last = null;
    if (!past) {
      this.wantLatest = true;
      this.send(true);
      return;
    }
    const isHere = past.client === this.client && past.begun === this.begun && past.ids.every((id) => this.cards.has(id));
    this.events.push({ n: this.next++, undo: true, who: past.who, of: past.n, from: past.client, ...(!isHere && { back: true }) });
    if (past.client === this.client) this.answered -= past.ids.length;
    this.contradictions = this.contradictions.filter((one) => !isOf(one, past));
    if (isHere) {
      this.front = [...past.ids, ...this.front];
      this.chosenBefore = past.chosen ?? [];
      this.order = [...this.front, ...this.order.filter((id) => !this.front.includes(id))];
    }
    this.persist();
    this.send();
  }

  takeBack(one) {
    const place = this.history.findIndex((past) => isOf(one, past));
    this.contradictions = this.contradictions.filter((other) => other !== one);
    if (place >= 0) this.undo(this.history.splice(place, 1)[0]);
  }

  takeLatestBack() {
    this.events.push({ n: this.next++, undo: true, who: this.latest.who, event: this.latest.event, back: true });
    this.latest = null;
    this.persist();
    this.send();
  }

  send(evenIfNothingIsNew = false) {
    const now = performance.now();
    if (this.sentAt && now - this.sentAt < RESEND_AFTER_MS) return; // one at a time: answers stay in order
    if (this.isLeaving()) {
      this.isOwed ||= evenIfNothingIsNew;
      return;
    }
    const part = this.backlog[0] ?? { client: this.client, events: this.events };
    if (!part.events.length && !evenIfNothingIsNew) return;
    this.sentAt = now;
    this.isOwed = false;
    this.setStateValue("batch", {
      csv: this.csv, client: part.client, tab: this.client, events: part.events, answered: this.answered, attempt: ++this.attempt, clients: this.clients,
      have: this.have(), epoch: this.epoch, full: this.wantFull, heat: this.heat, latest: this.wantLatest,
    });
  }

  // A card counts as had when it holds what is wanted of it: heat maps are only made once somebody looks at them.
  have() {
    return [...this.cards].filter(([, card]) => !this.heat || card.heat !== undefined).map(([id]) => id);
  }

  // --- what comes in

  receive(data) {
    if (data.serial === this.serial) return false;
    this.serial = data.serial;
    this.sentAt = 0;
    this.error = data.error;
    this.tally = data.tally ?? this.tally;
    if (this.epoch !== data.epoch) this.begin(data.epoch);
    this.acknowledge(data);
    for (const one of data.contradictions) {
      const name = `${one.client}:${one.n}`;
      if (!this.heard.has(name) && this.history.some((past) => isOf(one, past))) this.contradictions.push(one);
      this.heard.add(name);
    }
    for (const [id, card] of Object.entries(data.cards)) this.keep(id, card);
    if (data.full && this.wantFull === data.full.id) {
      this.full = data.full;
      this.wantFull = null;
    }
    if (data.latest && this.wantLatest) {
      this.latest = data.latest;
      this.wantLatest = false;
    }
    const restored = (data.restored ?? []).map(([, id]) => id).filter((id) => !this.front.includes(id));
    for (const id of restored) this.revealed.add(id); // it was answered before: what the CSV says may have been seen
    this.front = [...this.front, ...restored].filter((id) => this.cards.has(id));
    this.arrange(data.order);
    const had = new Set(this.have());
    const missing = data.order.some((id) => !had.has(id));
    if (!this.error && (this.unsaved() || missing || this.wantFull || this.wantLatest)) queueMicrotask(() => this.send(true));
    return true;
  }

  begin(epoch) {
    this.epoch = epoch;
    this.order = [];
    this.front = [];
    this.begun += 1;
    this.cards.clear();
    this.last = this.latest = null;
    this.full = this.wantFull = null;
  }

  acknowledge({ acked, refused }) {
    if (!acked) return;
    const parts = [...this.backlog, { client: this.client, events: this.events }].filter((part) => part.client === acked.client);
    this.tellRefused(parts.flatMap((part) => part.events).filter((event) => event.n <= acked.n && !event.undo), acked.client, new Map(refused ?? []));
    const left = (events) => events.filter((event) => event.n > acked.n);
    if (acked.client === this.client) this.events = left(this.events);
    for (const part of this.backlog) if (part.client === acked.client) part.events = left(part.events);
    this.backlog = this.backlog.filter((part) => part.events.length);
    this.persist();
  }

  // What was refused is told until the same cell is saved, or somebody has read it.
  tellRefused(events, client, why) {
    for (const event of events) {
      this.refused = this.refused.filter((one) => one.cell !== cellOf(event));
      if (!why.has(event.n)) continue;
      this.refused.push({ cell: cellOf(event), why: why.get(event.n) });
      const past = this.history.find((one) => one.client === client && one.n <= event.n && event.n < one.n + one.size);
      if (past) past.refused = (past.refused ?? 0) + 1;
    }
    this.history = this.history.filter((one) => (one.refused ?? 0) < one.size);
  }

  keep(id, card) {
    this.cards.delete(id);
    this.cards.set(id, card);
    if (card.url) {
      card.picture = new Image(); // decoded before it is asked for
      card.picture.src = card.url;
      card.picture.decode?.().catch(() => {});
    }
    for (const old of this.cards.keys()) {
      if (this.cards.size <= KEPT_CARDS) break;
      if (!this.order.includes(old) && !this.front.includes(old)) this.cards.delete(old);
      else break;
    }
  }

  // What an undo gave back comes first; else what is on screen stays there. Then what the server says is next.
  arrange(order) {
    const gone = new Set(this.events.filter((event) => !event.undo).map((event) => event.id));
    const undone = new Set(this.front);
    const shown = this.order.slice(0, this.data.pageSize).filter((id) => this.cards.has(id));
    const all = [...this.front, ...shown, ...order.filter((id) => !gone.has(id) || undone.has(id))];
    this.order = [...new Set(all)].filter((id) => this.cards.has(id) || order.includes(id));
  }

  done(ids) {
    this.order = this.order.filter((id) => !ids.includes(id));
    this.front = this.front.filter((id) => !ids.includes(id));
  }

  current() {
    return this.order.length ? this.cards.get(this.order[0]) : undefined;
  }
}

// --- building elements: user strings only ever become text or attributes

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Whether an answer, by its tab's id and number, is one of those confirmed together.
const isOf = ({ client, n }, past) => past.client === client && past.n <= n && n < past.n + past.size;
const cellOf = ({ image, label }) => JSON.stringify([image, label]);
const word = (value) => (value ? "yes" : "no");

function bar(share) {
  const inner = el("i");
  inner.style.width = `${Math.round(share * 100)}%`;
  return el("span", { class: "measure" }, el("span", { class: "bar", "aria-hidden": "true" }, inner), share.toFixed(2));
}

// A small picture, or words in its place; of one with few pixels each stays a sharp square.
function small(url, otherwise) {
  if (!url) return el("span", { class: "quiet nothing" }, otherwise);
  const picture = el("img", { src: url, alt: "", onload: () => picture.classList.toggle("coarse", Math.max(picture.naturalWidth, picture.naturalHeight) < 100) });
  return picture;
}

function keyed(text, key, attributes) {
  return el("button", { type: "button", "aria-keyshortcuts": key.toLowerCase(), ...attributes }, text, el("kbd", { "aria-hidden": "true" }, key));
}

// Whether a key press means something to where it went, and so is none of ours: a field, or anything in a menu, a popover or a dialog.
// The radio buttons above keep the letters, for they are where the focus is after a click on another mode; but arrows are theirs.
const FIELDS = "input, textarea, select, [contenteditable], [role=combobox], [role=listbox], [role=option], [role=slider]";
const OVERLAYS = '[role=dialog], [role=menu], [role=listbox], [data-testid="stPopoverBody"], [data-baseweb="popover"], [data-baseweb="menu"]';

function isTyping(event) {
  const path = event.composedPath().filter((one) => one instanceof Element);
  if (!path.length) return false;
  if (path[0].matches(FIELDS) || path.some((one) => one.matches(OVERLAYS))) return true;
  return event.key.startsWith("Arrow") && path[0].matches("[role=radio], [role=tab], [role=tab] *, [role=radiogroup] *");
}
