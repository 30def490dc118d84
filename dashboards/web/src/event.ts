// The event, schema netprobe.event/1, as far as the pages use it. Unknown is null.

export type Severity = "debug" | "info" | "warning" | "error" | "critical";
export const SEVERITIES: Severity[] = ["debug", "info", "warning", "error", "critical"];

export interface Process {
  pid: number;
  comm: string | null;
  exe: string | null;
  uid: number | null;
  cgroup: string | null;
  unit: string | null;
  container_id: string | null;
}

export interface Tuple {
  src_ip: string;
  src_port: number;
  dst_ip: string;
  dst_port: number;
}

export interface Hop {
  netns: number | null;
  zone: number | null;
  orig: Tuple;
  reply: Tuple;
}

export interface Flow {
  state: "open" | "update" | "closed" | "failed";
  connect_ms: number | null;
  syn_retransmits: number | null;
  rtt_ms: number | null;
  rtt_var_ms: number | null;
  retransmits: number | null;
  segments_out: number | null;
  segments_in: number | null;
  accept_wait_ms: number | null;
  close_reason: string | null;
  error: string | null;
}

export interface Request {
  protocol: string | null;
  method: string | null;
  route: string | null;
  status_code: number | null;
  ttfb_ms: number | null;
  send_ms: number | null;
  wait_ms: number | null;
  receive_ms: number | null;
  error: string | null;
  tls: boolean | null;
}

export interface Gap {
  stage: string;
  reason: string;
  count: number | null;
  from_seq: number | null;
  to_seq: number | null;
  scope: "agent" | "client";
}

export interface Event {
  kind: "flow" | "request" | "gap" | "agent";
  host: string;
  run: string;
  seq: number | null;
  ts: string;
  started_at: string | null;
  elapsed_ms: number | null;
  severity: Severity;
  connection_id: string | null;
  trace_id: string;
  service: string | null;
  protocol: "tcp" | "udp" | null;
  role: "client" | "server" | "forwarded" | null;
  netns: number | null;
  internal_ip: string | null;
  internal_port: number | null;
  external_ip: string | null;
  external_port: number | null;
  peer_ip: string | null;
  peer_port: number | null;
  actual_peer_ip: string | null;
  actual_peer_port: number | null;
  nat: { status: string; method: string | null; hops: Hop[] } | null;
  process: Process | null;
  io_process: Process | null;
  bytes_sent: number | null;
  bytes_received: number | null;
  flags: string[];
  flow: Flow | null;
  request: Request | null;
  gap: Gap | null;
  agent: { action: string; version: string; message: string | null } | null;
}

/** The last event of a connection. */
export function isFinal(event: Event): boolean {
  return event.flow?.state === "closed" || event.flow?.state === "failed";
}

/** Whether a request failed: no whole answer, or one of the server's own failures. */
export function hasFailed(event: Event): boolean {
  return event.request !== null && event.severity === "error";
}

/** Milliseconds since 1970 that an event's connection or request began, to the microsecond; null when not known. */
export function beganAt(event: Event): number | null {
  const text = event.started_at;
  if (text === null) return null;
  // A Date holds whole milliseconds only.
  const [, whole = text, fraction = ""] = /^(.*?)\.(\d+)Z$/.exec(text) ?? [];
  const seconds = Date.parse(fraction === "" ? text : `${whole}Z`);
  return seconds + Number(`0.${fraction === "" ? "0" : fraction}`) * 1000;
}

/** `address:port`, brackets around IPv6; null when the address is not known. */
export function endpoint(ip: string | null, port: number | null): string | null {
  if (ip === null) return null;
  const host = ip.includes(":") ? `[${ip}]` : ip;
  return port === null ? host : `${host}:${port}`;
}

/** Whether the event tells of a translation. */
export function translated(event: Event): boolean {
  const status = event.nat?.status;
  return status === "snat" || status === "dnat" || status === "snat+dnat";
}
