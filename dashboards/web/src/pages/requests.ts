// Requests as they are told, each with where its time went.

import * as api from "../api";
import { h, nothing, panel, table } from "../dom";
import { beganAt, endpoint, type Event } from "../event";
import { isEmpty, narrowed } from "../filter";
import { clock, count, ms, NONE } from "../format";
import type { MakePage } from "../page";
import { bar, legend, parts, span, type Bar } from "../waterfall";

const SHOWN = 200;
const COLUMNS = ["time", "severity", "service", "request", "status", "with", "where the time went", "#took", "#retransmits"];

/** Milliseconds as wide as the widest bar, rounded up, so that it rarely changes. */
function scale(most: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1e-3)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= most) ?? most;
}

/** Rows of requests, newest first; what their connections' own events tell is drawn when it comes. */
export class Requests {
  readonly root: HTMLElement;
  private readonly body: HTMLTableSectionElement;
  private readonly none: HTMLElement;
  private rows: Row[] = [];
  private readonly known = new Set<string>();
  private most = 0;

  constructor(empty: string) {
    const view = table(COLUMNS, "Requests, newest first");
    this.body = view.body;
    this.none = nothing(COLUMNS.length, empty);
    this.body.append(this.none);
    this.root = h("div", {}, legend(), view.root);
  }

  /** Takes the requests and flows among these events; those it has are left as they are. */
  add(events: Iterable<Event>): void {
    for (const event of events) {
      if (event.kind === "request") this.request(event);
      else if (event.kind === "flow") this.flow(event);
    }
    for (const row of this.rows.splice(SHOWN)) this.forget(row);
    const most = scale(Math.max(0, ...this.rows.map((row) => row.span)));
    const same = most === this.most;
    this.most = most;
    for (const row of this.rows) row.fit(most, !same);
  }

  private request(event: Event): void {
    const name = `${event.run} ${event.seq}`;
    if (this.known.has(name)) return;
    this.known.add(name);
    const row = new Row(name, event);
    const at = this.rows.findIndex((other) => other.event.ts <= event.ts);
    if (at === -1) this.rows.push(row);
    else this.rows.splice(at, 0, row);
    this.none.remove();
    this.body.insertBefore(row.root, this.body.rows[at === -1 ? this.body.rows.length : at] ?? null);
  }

  private flow(event: Event): void {
    const rows = this.rows.filter((row) => row.event.connection_id === event.connection_id);
    // The connect was for the first of them.
    rows.forEach((row, index) => row.connected(event, index === rows.length - 1));
  }

  private forget(row: Row): void {
    row.root.remove();
    this.known.delete(row.name);
  }
}

class Row {
  readonly root: HTMLElement;
  span = 0;
  private bar: Bar | null = null;
  private readonly where = h("td");
  private readonly retransmits = h("td", { class: "num" }, NONE);

  constructor(
    readonly name: string,
    readonly event: Event,
  ) {
    const { request, connection_id: id } = event;
    const what = `${request?.method ?? request?.protocol ?? "request"} ${request?.route ?? ""}`;
    const peer = endpoint(event.peer_ip, event.peer_port) ?? NONE;
    const status = request?.error ?? request?.status_code ?? NONE;
    this.root = h(
      "tr",
      { class: event.severity },
      h("td", { class: "mono" }, clock(event.started_at ?? event.ts)),
      h("td", {}, h("span", { class: `severity ${event.severity}` }, event.severity)),
      h("td", {}, event.service ?? NONE),
      h("td", { class: "mono" }, id === null ? what : h("a", { href: `#/connection/${encodeURIComponent(id)}` }, what)),
      h("td", {}, status),
      h("td", { class: "mono" }, `${event.role === "server" ? "←" : "→"} ${peer}`),
      this.where,
      h("td", { class: "num" }, ms(event.elapsed_ms)),
      this.retransmits,
    );
    this.draw(null);
  }

  private draw(flow: Event | null): void {
    const known = parts(this.event, flow);
    this.bar = bar(known);
    this.span = span(known);
    this.where.replaceChildren(this.bar.root);
  }

  /** An event of its connection has come. */
  connected(flow: Event, isFirst: boolean): void {
    const retransmits = flow.flow?.retransmits ?? null;
    this.retransmits.textContent = count(retransmits);
    this.retransmits.title = "of the whole connection";
    if (isFirst && beganAt(flow) !== null) this.draw(flow);
  }

  /** Draws to a scale; an old bar only when the scale is another one. */
  fit(most: number, anew: boolean): void {
    if (anew || this.bar !== this.fitted) this.bar?.scale(most);
    this.fitted = this.bar;
  }

  private fitted: Bar | null = null;
}

export const requests: MakePage = ({ store, filter, paused }) => {
  const view = new Requests(isEmpty(filter) ? "no request has been read yet" : "no request that matches the filter has been read yet");
  const note = h("p", { class: "note", role: "status" });
  // What was there before the page was opened.
  api.events(narrowed(filter, "kind==request"), SHOWN).then(
    (held) => view.add(held),
    (error: Error) => (note.textContent = error.message),
  );
  let drawn = 0;
  return {
    root: h(
      "div",
      { class: "page" },
      panel("Requests", "newest first; the longer the bar, the longer it took, in the square root; connects are drawn where one was just made", note, view.root),
    ),
    draw: () => {
      if (paused() || store.received === drawn) return;
      view.add(store.events.slice(-Math.min(store.received - drawn, store.events.length)));
      drawn = store.received;
    },
  };
};
