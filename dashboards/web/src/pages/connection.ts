// One connection: its life line, its addresses on every leg, its process.

import * as api from "../api";
import { h, panel, svg, table } from "../dom";
import { beganAt, endpoint, isFinal, type Event, type Process } from "../event";
import { EVERYTHING } from "../filter";
import { bytes, clock, count, ms, NONE } from "../format";
import type { MakePage } from "../page";
import { outcome, row } from "./events";
import { Requests } from "./requests";

const EVERY_MS = 2000;

interface Point {
  at: number;
  text: string;
  bad: boolean;
}

/** Points of a life, with the milliseconds since it began; only what is known. `told`: all events of the connection. */
export function life(event: Event, told: Event[] = []): Point[] {
  const flow = event.flow;
  const points: Point[] = [{ at: 0, text: event.role === "client" ? "SYN" : "established", bad: false }];
  if (flow === null) return points;
  if ((flow.syn_retransmits ?? 0) > 0)
    points.push({ at: 0, text: `${flow.syn_retransmits} SYN repeated`, bad: true });
  if (event.role === "client" && flow.connect_ms !== null)
    points.push({ at: flow.connect_ms, text: `established after ${ms(flow.connect_ms)}`, bad: false });
  if (flow.accept_wait_ms !== null)
    points.push({ at: flow.accept_wait_ms, text: `accepted after ${ms(flow.accept_wait_ms)}`, bad: false });
  points.push(...firstBytes(event, told));
  let sentAgain = 0;
  for (const { elapsed_ms: at, flow: then } of told.filter((one) => one.kind === "flow" && !isFinal(one))) {
    const more = (then?.retransmits ?? 0) - sentAgain;
    if (at === null || more <= 0) continue;
    points.push({ at, text: `${more} retransmitted by ${ms(at)}`, bad: true });
    sentAgain += more;
  }
  if (event.elapsed_ms !== null) {
    const how = flow.error ?? flow.close_reason ?? flow.state;
    const more = (flow.retransmits ?? 0) - sentAgain;
    const lost = more > 0 ? `${more} retransmitted, ` : "";
    const text = isFinal(event) ? `${how} after ${ms(event.elapsed_ms)}` : `open for ${ms(event.elapsed_ms)}`;
    const bad = more > 0 || flow.state === "failed" || how.startsWith("reset") || how === "timeout";
    points.push({ at: event.elapsed_ms, text: `${lost}${text}`, bad });
  }
  return points.sort((a, b) => a.at - b.at);
}

/** First bytes of the first request and of its answer, where requests are read. */
function firstBytes(event: Event, told: Event[]): Point[] {
  const [connected, first] = [beganAt(event), told.find((one) => one.kind === "request" && !one.flags.includes("partial"))];
  const begun = first === undefined ? null : beganAt(first);
  if (connected === null || begun === null || begun < connected) return [];
  const at = begun - connected;
  const points = [{ at, text: `first request after ${ms(at)}`, bad: false }];
  const answer = first?.request?.ttfb_ms ?? null;
  if (answer !== null) points.push({ at: at + answer, text: `first byte of the answer after ${ms(at + answer)}`, bad: false });
  return points;
}

export const connection: MakePage = ({ argument, store }) => {
  const id = decodeURIComponent(argument);
  const content = h("div", { class: "page" }, h("p", { class: "note", role: "status" }, "asking the agent…"));
  let [asked, drawn] = [0, ""];
  const ask = async () => {
    const filter = { ...EVERYTHING, text: `connection_id==${api.quoted(id)}` };
    try {
      const [recent, open] = await Promise.all([api.events(filter, 100), api.flows(filter, 1)]);
      const streamed = store.events.filter((event) => event.connection_id === id);
      // What one of them holds no longer, the other one may.
      const held = new Map([...streamed, ...recent].map((event) => [`${event.run} ${event.seq}`, event]));
      const told = [...held.values()].sort((a, b) => (a.ts < b.ts ? -1 : a.ts > b.ts ? 1 : 0));
      const last = told.findLast(isFinal) ?? open.flows[0] ?? told.findLast((event) => event.kind === "flow") ?? told.at(-1);
      const state = JSON.stringify([told.length, last]);
      if (state === drawn) return;
      drawn = state;
      content.replaceChildren(...(last === undefined ? [unknown(id)] : parts(last, told)));
    } catch (error) {
      content.replaceChildren(h("p", { class: "note" }, error instanceof Error ? error.message : String(error)));
    }
  };
  return {
    root: content,
    draw: () => {
      if (Date.now() - asked < EVERY_MS) return;
      asked = Date.now();
      void ask();
    },
  };
};

function unknown(id: string): HTMLElement {
  const why = "The agent holds no event of this connection any more, and it is not open. It holds the last events only (api.recent_events).";
  return panel(id, null, h("p", { class: "note" }, why));
}

function parts(event: Event, told: Event[]): HTMLElement[] {
  const view = table(["time", "severity", "what", "service", "between", "how it went"], "Events of this connection");
  view.body.replaceChildren(...told.toReversed().map((event) => row(event)));
  const here = endpoint(event.internal_ip, event.internal_port) ?? "?";
  const title = `${event.service ?? event.role ?? "connection"} · ${here} ${event.role === "server" ? "←" : "→"} ${endpoint(event.peer_ip, event.peer_port) ?? "?"}`;
  return [
    panel(title, outcome(event), line(event, told)),
    panel("Addresses", "before and after translation on this host", legs(event)),
    h(
      "div",
      { class: "columns" },
      panel("Figures", null, figures(event)),
      panel(event.role === "server" ? "Accepted by" : "Connected by", null, process(event.process)),
      event.io_process === null ? null : panel("Data moved by", null, process(event.io_process)),
    ),
    exchanged(told),
    panel("Events", null, view.root),
    h("details", { class: "panel" }, h("summary", {}, "The event, as it is"), h("pre", {}, JSON.stringify(event, null, 2))),
  ].filter((part) => part !== null);
}

/** Its requests; null when none was read. */
function exchanged(told: Event[]): HTMLElement | null {
  if (!told.some((event) => event.kind === "request")) return null;
  const view = new Requests("");
  view.add(told);
  return panel("Requests", "newest first; where their time went", view.root);
}

/** The life on a line. The scale is the square root of time: what is short is what matters. */
function line(event: Event, told: Event[]): HTMLElement {
  const points = life(event, told);
  const end = Math.max(...points.map((point) => point.at), 1e-6);
  const [width, left] = [1000, 20];
  const x = (at: number) => left + Math.sqrt(at / end) * (width - 2 * left);
  const root = svg("svg", { viewBox: `0 0 ${width} 132`, class: "life", role: "img" });
  root.append(svg("title", {}, points.map((point) => point.text).join(", ")));
  root.append(svg("line", { x1: x(0), y1: 66, x2: x(end), y2: 66, class: "thread" }));
  points.forEach((point, index) => {
    const at = x(point.at);
    const anchor = at > width * 0.7 ? "end" : at < width * 0.1 ? "start" : "middle";
    // Four rows of texts, so that neighbours leave room for each other.
    const y = [48, 94, 26, 116][index % 4] ?? 48;
    root.append(svg("line", { x1: at, y1: 66, x2: at, y2: y > 66 ? y - 10 : y + 4, class: "stem" }));
    root.append(svg("circle", { cx: at, cy: 66, r: 6, class: point.bad ? "point bad" : "point" }));
    root.append(svg("text", { x: at, y, "text-anchor": anchor, class: "said" }, point.text));
  });
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Life line" }, root);
}

function legs(event: Event): HTMLElement {
  const entry = (name: string, ip: string | null, port: number | null) =>
    h("div", { class: "leg" }, h("small", {}, name), h("span", { class: "mono" }, endpoint(ip, port) ?? NONE));
  const names =
    event.role === "server"
      ? ["local socket", "as the client dialed it", "peer as the socket sees it", "client before translation"]
      : ["our side", "as the other side sees it", "dialed", "reached"];
  const hops = event.nat?.hops ?? [];
  const tuple = (t: { src_ip: string; src_port: number; dst_ip: string; dst_port: number }) =>
    `${endpoint(t.src_ip, t.src_port)} → ${endpoint(t.dst_ip, t.dst_port)}`;
  return h(
    "div",
    {},
    h(
      "div",
      { class: "legs" },
      entry(names[0] ?? "", event.internal_ip, event.internal_port),
      entry(names[1] ?? "", event.external_ip, event.external_port),
      entry(names[2] ?? "", event.peer_ip, event.peer_port),
      entry(names[3] ?? "", event.actual_peer_ip, event.actual_peer_port),
    ),
    h("p", { class: "hint" }, `translation: ${event.nat?.status ?? "unknown"}${event.nat?.method == null ? "" : `, known by ${event.nat.method}`}`),
    ...hops.map((hop) =>
      h("p", { class: "hop mono" }, `namespace ${hop.netns ?? "?"}, zone ${hop.zone ?? "?"}: ${tuple(hop.orig)}; replies ${tuple(hop.reply)}`),
    ),
  );
}

function list(entries: [string, string][]): HTMLElement {
  return h("dl", {}, ...entries.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: "mono" }, value)]));
}

function figures(event: Event): HTMLElement {
  const flow = event.flow;
  const text = (value: number | null | undefined) => count(value ?? null);
  return list([
    ["began", clock(event.started_at)],
    ["sent", bytes(event.bytes_sent)],
    ["received", bytes(event.bytes_received)],
    ["round trip", ms(flow?.rtt_ms ?? null)],
    ["its variation", ms(flow?.rtt_var_ms ?? null)],
    ["segments out / in", `${text(flow?.segments_out)} / ${text(flow?.segments_in)}`],
    ["retransmits", text(flow?.retransmits)],
    ["flags", event.flags.length === 0 ? "none" : event.flags.join(", ")],
    ["trace", event.trace_id],
  ]);
}

function process(known: Process | null): HTMLElement {
  if (known === null) return h("p", { class: "note" }, "not known");
  return list([
    ["command", known.comm ?? NONE],
    ["pid", String(known.pid)],
    ["executable", known.exe ?? NONE],
    ["user id", String(known.uid ?? NONE)],
    ["unit", known.unit ?? NONE],
    ["container", known.container_id?.slice(0, 12) ?? NONE],
    ["cgroup", known.cgroup ?? NONE],
  ]);
}
