// REST. A refusal is an error whose message is the agent's own sentence.

import type { Event } from "./event";
import { EVERYTHING, parameters, type Filter } from "./filter";

export interface Fact {
  fact: string;
  required: boolean;
  off: boolean;
  method: string | null;
  kernel_floor: string | null;
  refused: { method: string; reason: string }[];
}

export interface SinkLedger {
  sink: string;
  emitted: number;
  delivered: number;
  lost: Record<string, number>;
  suppressed: Record<string, number>;
  queued: number;
  closes: boolean;
}

export interface Probe {
  agent_version: string;
  run: string | null;
  uptime_seconds: number | null;
  kernel: { release: string; machine: string; btf: boolean; lockdown: string | null };
  facts: Fact[];
  programs: { name: string; runs: number | null; run_ns: number | null }[];
  maps: { map?: string; name: string; entries: number | null; capacity: number }[];
  ring: { bytes: number; fill: number } | null;
  ledger: {
    kernel: {
      seen: Record<string, number>;
      drained: Record<string, number>;
      lost: { stage: string; reason: string; count: number }[];
      rejected: Record<string, number>;
      closes: boolean;
    };
    sinks: SinkLedger[];
    emitted: Record<string, number>;
  } | null;
  counters: Record<string, number>;
  stream: { clients: number; sent: number; missed: number } | null;
  cost: Record<string, number | null> | null;
  notices: string[];
}

/** The agent wants a token first. */
export class TokenNeeded extends Error {}

/** Exchanges a token for a session: the browser keeps a cookie this page cannot read. */
export async function openSession(token: string): Promise<void> {
  const answer = await fetch(new URL("api/v1/session", document.baseURI), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token }),
  });
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.detail ?? `the agent answered ${answer.status}`);
}

async function get<T>(path: string, parameters: Record<string, string>): Promise<T> {
  const url = new URL(path, document.baseURI);
  url.search = new URLSearchParams(parameters).toString();
  const answer = await fetch(url, { headers: { accept: "application/json" } });
  const body = await answer.json().catch(() => null);
  if (answer.status === 401) throw new TokenNeeded(body?.detail ?? "a token is needed");
  if (!answer.ok) throw new Error(body?.detail ?? `the agent answered ${answer.status}`);
  return body as T;
}

export function probe(): Promise<Probe> {
  return get("api/v1/probe", {});
}

export async function flows(filter: Filter, limit: number): Promise<{ flows: Event[]; more: boolean }> {
  type Answer = { flows: Event[]; next_cursor: string | null };
  const answer = await get<Answer>("api/v1/flows", { ...parameters(filter), limit: String(limit) });
  return { flows: answer.flows, more: answer.next_cursor !== null };
}

export async function events(filter: Filter, last: number): Promise<Event[]> {
  const limits = { limit: String(last), last: String(last) };
  return (await get<{ events: Event[] }>("api/v1/events", { ...parameters(filter), ...limits })).events;
}

export interface ArchivePage {
  events: Event[];
  next_cursor: string | null;
  damaged: string[];
}

/** A page of the history. */
export function archive(filter: Filter, service: string, since: string, cursor: string | null): Promise<ArchivePage> {
  const asked: Record<string, string> = { ...parameters(filter), since, limit: "200" };
  if (service !== "") asked.service = service;
  if (cursor !== null) asked.cursor = cursor;
  return get("api/v1/archive", asked);
}

export interface Episode {
  from: string;
  to: string;
  host: string;
  service: string | null;
  role: string;
  destination: string;
  cause: string;
  count: number;
  tried: number;
  recovered_at: string | null;
}

export interface Incident {
  from: string;
  to: string;
  recovered_at: string | null;
  causes: { cause: string; meaning: string; from: string; count: number }[];
  episodes: Episode[];
  losses: { host: string }[];
}

export interface Series {
  host: string;
  service: string | null;
  role: string;
  destination: string;
  points: { at: string; good: number; bad: number }[];
}

export interface Story {
  incidents: Incident[];
  background: Episode[];
  series: Series[];
  sources: { hosts: { host: string; losses: unknown[] }[]; damaged: string[] };
}

/** What went wrong in a time, out of the archive. */
export function timeline(filter: Filter, since: string, until: string): Promise<Story> {
  return get("api/v1/timeline", { ...parameters(filter), since, until });
}

export type State = "healthy" | "degraded" | "failing" | "recovering";

export interface Destination {
  peer: string;
  state: State | null;
  because: string;
  last_outcome_seconds: number | null;
  connect: { p50_ms: number; p95_ms: number } | null;
}

/** Destinations as the agent judges them, the worst first. */
export async function destinations(): Promise<Destination[]> {
  return (await get<{ destinations: Destination[] }>("resilience/state", {})).destinations;
}

/** Fails with the agent's sentence when the filter has an error. */
export async function check(filter: Filter = EVERYTHING): Promise<void> {
  await get("api/v1/flows", { ...parameters(filter), limit: "1" });
}

/** A value for the filter grammar. */
export function quoted(value: string): string {
  return `"${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}
