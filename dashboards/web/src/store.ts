// What the pages draw, gathered from the stream: seconds of the last ten minutes, destinations, edges, last events.
// Everything is bounded: a page may stay open for weeks.

import { endpoint, hasFailed, isFinal, translated, type Event } from "./event";

export const WINDOW = 600;
const MAX_EVENTS = 1000;
const MAX_LIVE = 50_000;
const MAX_PEERS = 500;
const MAX_SAMPLES = 2000;
const MAX_ROUTES = 300;

/** One second. */
export interface Second {
  client: number;
  server: number;
  forwarded: number;
  failed: number;
  resets: number;
  retransmits: number;
  sent: number;
  received: number;
  connect: number[];
  /** Requests told, those that failed, and how long they took. */
  requests: number;
  requestsFailed: number;
  request: number[];
}

/** Requests of one service to one route, as client or as server. */
export interface Route {
  service: string;
  role: string;
  method: string;
  route: string;
  requests: number;
  failed: number;
  /** Answered with 4xx. */
  refused: number;
  took: number[];
  lastSeen: number;
}

/** A service of this host and what it talks to. */
export interface Peer {
  service: string;
  dialed: string;
  reached: string | null;
  nat: string;
  connections: number;
  failed: number;
  resets: number;
  retransmits: number;
  bytes: number;
  connect: number[];
  lastError: string | null;
  lastSeen: number;
}

function second(): Second {
  return {
    client: 0,
    server: 0,
    forwarded: 0,
    failed: 0,
    resets: 0,
    retransmits: 0,
    sent: 0,
    received: 0,
    connect: [],
    requests: 0,
    requestsFailed: 0,
    request: [],
  };
}

/** A value more; when there are too many the older half goes. */
function sample(values: number[], value: number): void {
  values.push(value);
  if (values.length > MAX_SAMPLES) values.splice(0, MAX_SAMPLES / 2);
}

/** Makes room: the entry not seen for longest goes when there are more than `most`. */
function bound<T extends { lastSeen: number }>(entries: Map<string, T>, most: number): void {
  if (entries.size <= most) return;
  let oldest: [string, number] | null = null;
  for (const [key, entry] of entries) if (oldest === null || entry.lastSeen < oldest[1]) oldest = [key, entry.lastSeen];
  if (oldest !== null) entries.delete(oldest[0]);
}

interface Counted {
  sent: number;
  received: number;
  retransmits: number;
}

export class Store {
  readonly seconds = new Map<number, Second>();
  readonly peers = new Map<string, Peer>();
  readonly routes = new Map<string, Route>();
  /** Newest last. */
  readonly events: Event[] = [];
  /** Events missed by this page. */
  missed = 0;
  /** Losses the agent told of. */
  losses: Event[] = [];
  received = 0;
  private readonly live = new Map<string, Counted>();
  private skew: number | null = null;
  /** The first second of which everything is known here; `null`: not asked yet. */
  private since: number | null = null;

  /** `now`: the browser's clock, milliseconds. */
  constructor(private readonly now: () => number) {}

  /** The agent's clock now, seconds: its events say how far this one's is off. */
  agentNow(): number {
    return Math.floor((this.now() + (this.skew ?? 0)) / 1000);
  }

  /** Takes the events the agent still held when the page was opened, oldest first: before them nothing is known. */
  begin(held: Event[]): void {
    const first = held[0];
    this.since = first === undefined ? this.agentNow() : Math.floor(Date.parse(first.ts) / 1000) + 1;
    for (const event of held) this.keep(event);
  }

  get hasBegun(): boolean {
    return this.since !== null;
  }

  /** Takes an event that has just come. */
  add(event: Event): void {
    this.skew = Math.max(this.skew ?? -Infinity, Date.parse(event.ts) - this.now());
    this.keep(event);
  }

  private keep(event: Event): void {
    const at = Date.parse(event.ts);
    this.received += 1;
    this.events.push(event);
    if (this.events.length > MAX_EVENTS) this.events.splice(0, MAX_EVENTS / 10);
    if (event.kind === "gap" && event.gap !== null) {
      if (event.gap.scope === "client") this.missed += event.gap.count ?? 0;
      else this.losses = [...this.losses.slice(-49), event];
    }
    if (event.kind === "flow" && event.flow !== null) this.flow(event, Math.floor(at / 1000));
    if (event.kind === "request" && event.request !== null) this.request(event, Math.floor(at / 1000));
  }

  private request(event: Event, time: number): void {
    const { method, route } = event.request ?? {};
    const slot = this.slot(time);
    const failed = hasFailed(event);
    slot.requests += 1;
    if (failed) slot.requestsFailed += 1;
    if (event.elapsed_ms !== null && slot.request.length < MAX_SAMPLES) slot.request.push(event.elapsed_ms);
    const name = { service: event.service ?? "unknown", role: event.role ?? "", method: method ?? "", route: route ?? "" };
    const key = Object.values(name).join("\n");
    let known = this.routes.get(key);
    if (known === undefined) {
      known = { ...name, requests: 0, failed: 0, refused: 0, took: [], lastSeen: this.agentNow() };
      this.routes.set(key, known);
      bound(this.routes, MAX_ROUTES);
    }
    known.requests += 1;
    known.lastSeen = this.agentNow();
    if (failed) known.failed += 1;
    else if (event.severity === "warning") known.refused += 1;
    if (event.elapsed_ms !== null) sample(known.took, event.elapsed_ms);
  }

  private flow(event: Event, time: number): void {
    const flow = event.flow;
    if (flow === null) return;
    const moved = this.moved(event);
    const slot = this.slot(time);
    slot.sent += moved.sent;
    slot.received += moved.received;
    slot.retransmits += moved.retransmits;
    if (!isFinal(event)) return;
    const failed = flow.state === "failed";
    const reset = flow.close_reason === "reset_local" || flow.close_reason === "reset_remote";
    if (failed) slot.failed += 1;
    else if (event.role !== null) slot[event.role] += 1;
    if (reset) slot.resets += 1;
    if (event.role === "client" && flow.connect_ms !== null && slot.connect.length < MAX_SAMPLES)
      slot.connect.push(flow.connect_ms);
    if (event.role !== "server") this.peer(event, failed, reset, moved);
  }

  /** What moved since the last event of this connection. */
  private moved(event: Event): Counted {
    const id = event.connection_id;
    const total: Counted = {
      sent: event.bytes_sent ?? 0,
      received: event.bytes_received ?? 0,
      retransmits: event.flow?.retransmits ?? 0,
    };
    if (id === null) return total;
    const before = this.live.get(id);
    if (isFinal(event)) this.live.delete(id);
    else if (this.live.size < MAX_LIVE || before !== undefined) this.live.set(id, total);
    if (before !== undefined)
      return {
        sent: Math.max(0, total.sent - before.sent),
        received: Math.max(0, total.received - before.received),
        retransmits: Math.max(0, total.retransmits - before.retransmits),
      };
    // Older than what this page saw: when its bytes moved is not known.
    const told = event.flow?.state === "update" || (isFinal(event) && (event.elapsed_ms ?? 0) > 15_000);
    return told ? { sent: 0, received: 0, retransmits: 0 } : total;
  }

  private peer(event: Event, failed: boolean, reset: boolean, moved: Counted): void {
    const dialed = endpoint(event.peer_ip, event.peer_port);
    if (dialed === null) return;
    const service = event.role === "forwarded" ? "forwarded" : (event.service ?? "unknown");
    const key = `${service}\n${dialed}`;
    let peer = this.peers.get(key);
    if (peer === undefined) {
      peer = {
        service,
        dialed,
        reached: null,
        nat: "none",
        connections: 0,
        failed: 0,
        resets: 0,
        retransmits: 0,
        bytes: 0,
        connect: [],
        lastError: null,
        lastSeen: this.agentNow(),
      };
      this.peers.set(key, peer);
      bound(this.peers, MAX_PEERS);
    }
    peer.connections += 1;
    peer.bytes += moved.sent + moved.received;
    peer.retransmits += moved.retransmits;
    peer.lastSeen = this.agentNow();
    if (failed) {
      peer.failed += 1;
      peer.lastError = event.flow?.error ?? event.flow?.close_reason ?? null;
    }
    if (reset) peer.resets += 1;
    if (translated(event)) {
      peer.nat = event.nat?.status ?? peer.nat;
      peer.reached = endpoint(event.actual_peer_ip, event.actual_peer_port);
    }
    const connect = event.flow?.connect_ms ?? null;
    if (connect !== null) sample(peer.connect, connect);
  }

  private slot(time: number): Second {
    let slot = this.seconds.get(time);
    if (slot === undefined) {
      slot = second();
      this.seconds.set(time, slot);
      const first = this.agentNow() - WINDOW;
      for (const old of this.seconds.keys()) if (old < first) this.seconds.delete(old);
    }
    return slot;
  }

  /** Seconds up to the last whole one, `least` to `most` of them; empty where nothing came, `null` where that is not known. */
  series(least: number, most: number): { times: number[]; slots: (Second | null)[] } {
    const end = this.agentNow();
    const since = this.since ?? end;
    const length = Math.max(least, Math.min(most, end - since));
    const times = Array.from({ length }, (_, index) => end - length + index);
    return { times, slots: times.map((time) => (time < since ? null : (this.seconds.get(time) ?? second()))) };
  }
}
