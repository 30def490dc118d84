// The overview: is it well, and if not, since when and with whom.

import * as api from "../api";
import { chart } from "../charts";
import { h, nothing, panel, table } from "../dom";
import { bytes, count, ms, NONE, quantile } from "../format";
import type { MakePage } from "../page";
import type { Peer, Route, Second } from "../store";

const SHOWN = 300;
/** Seconds a chart shows at least. */
const LEAST = 60;
const RATE_OVER = 10;

/** Worst first: failures, then resets, then what is busiest. */
export function worst(peers: Iterable<Peer>): Peer[] {
  const badness = (peer: Peer) => [peer.failed / peer.connections, peer.resets, peer.connections];
  return [...peers].sort((a, b) => {
    const [x, y] = [badness(a), badness(b)];
    for (let index = 0; index < x.length; index += 1) {
      const difference = (y[index] ?? 0) - (x[index] ?? 0);
      if (difference !== 0) return difference;
    }
    return 0;
  });
}

/** Routes with the most failures first, then those with the most refusals, then the busiest. */
export function worstRoutes(routes: Iterable<Route>): Route[] {
  return [...routes].sort(
    (a, b) => b.failed / b.requests - a.failed / a.requests || b.refused / b.requests - a.refused / a.requests || b.requests - a.requests,
  );
}

export const overview: MakePage = ({ store }) => {
  const tiles = new Map<string, HTMLElement>();
  const tile = (name: string, hint: string) => {
    const value = h("strong", {}, NONE);
    tiles.set(name, value);
    return h("div", { class: "tile" }, h("span", {}, name), value, h("small", {}, hint));
  };
  const set = (name: string, text: string, state: "good" | "bad" | "" = "") => {
    const value = tiles.get(name);
    if (value === undefined) return;
    value.textContent = text;
    value.className = state;
  };
  const connections = chart(
    "Connections ended per second",
    [
      { label: "outgoing", colour: "--c1" },
      { label: "incoming", colour: "--c2" },
      { label: "forwarded", colour: "--c3" },
      { label: "failed", colour: "--bad", fill: true },
    ],
    (value) => count(value),
  );
  const latency = chart(
    "Connect time of outgoing connections",
    [
      { label: "p50", colour: "--c1" },
      { label: "p95", colour: "--c4" },
      { label: "p99", colour: "--bad" },
    ],
    (value) => ms(value),
  );
  const traffic = chart(
    "Payload per second",
    [
      { label: "sent", colour: "--c1" },
      { label: "received", colour: "--c2" },
    ],
    (value) => bytes(value),
    2,
  );
  const trouble = chart(
    "Resets and retransmitted segments per second",
    [
      { label: "resets", colour: "--bad" },
      { label: "retransmits", colour: "--c4" },
    ],
    (value) => count(value),
  );
  const requests = chart(
    "Requests per second, and of them failed",
    [
      { label: "requests", colour: "--c1" },
      { label: "failed", colour: "--bad", fill: true },
    ],
    (value) => count(value),
  );
  const durations = chart(
    "Time of a request, first byte to last of its answer",
    [
      { label: "p50", colour: "--c1" },
      { label: "p95", colour: "--c4" },
      { label: "p99", colour: "--bad" },
    ],
    (value) => ms(value),
  );
  const charts = [connections, latency, requests, durations, traffic, trouble];
  const columns = ["service", "destination", "#connections", "#failed", "last error", "#connect p50", "#p95", "#resets", "#retransmits", "#payload"];
  const peers = table(columns, "Destinations, worst first");
  const routeColumns = ["service", "as", "method", "route", "#requests", "#failed", "#refused", "#p50", "#p95", "#p99"];
  const routes = table(routeColumns, "Routes, worst first");
  const stateColumns = ["state", "destination", "because", "#connect p50", "#p95", "#last outcome"];
  const states = table(stateColumns, "States of destinations, worst first");
  states.body.replaceChildren(nothing(stateColumns.length, "asking the agent …"));
  const root = h(
    "div",
    { class: "page" },
    h(
      "section",
      { class: "tiles", "aria-label": "Now" },
      tile("outgoing", `per second, last ${RATE_OVER} s`),
      tile("incoming", `per second, last ${RATE_OVER} s`),
      tile("failed", `last ${SHOWN / 60} min`),
      tile("connect p95", `last ${SHOWN / 60} min`),
      tile("requests", `per second, last ${RATE_OVER} s`),
      tile("request p95", `last ${SHOWN / 60} min`),
      tile("payload", `per second, last ${RATE_OVER} s`),
      tile("lost records", "in this run of the agent"),
      tile("missed here", "events, by this page"),
    ),
    h("div", { class: "charts" }, ...charts.map((one) => one.root)),
    panel("States", "as the agent judges destinations by the last five minutes, worst first", states.root),
    panel("Requests by route", "worst first, of what this page has seen; failed: no whole answer, or 5xx; refused: 4xx", routes.root),
    panel("Destinations", "worst first, of what this page has seen", peers.root),
  );

  let [asked, drawn] = [0, 0];
  const ask = async () => {
    try {
      const kernel = (await api.probe()).ledger?.kernel;
      const lost = kernel?.lost.reduce((sum, loss) => sum + loss.count, 0) ?? null;
      set("lost records", count(lost), lost === null ? "" : lost > 0 ? "bad" : "good");
    } catch {
      set("lost records", NONE);
    }
    try {
      const rows = (await api.destinations()).slice(0, 15).map(stateRow);
      states.body.replaceChildren(...(rows.length > 0 ? rows : [nothing(stateColumns.length, "no outgoing connection in the last five minutes")]));
    } catch (error) {
      states.body.replaceChildren(nothing(stateColumns.length, error instanceof Error ? error.message : String(error)));
    }
  };

  const draw = () => {
    // Its unit is the second: more often would only cost.
    if (drawn === store.agentNow()) return;
    drawn = store.agentNow();
    if (Date.now() - asked > 5000) {
      asked = Date.now();
      void ask();
    }
    const { times, slots } = store.series(LEAST, SHOWN);
    const known = slots.filter((slot) => slot !== null);
    const recent = known.slice(-RATE_OVER);
    const rate = (of: (slot: Second) => number) =>
      recent.length === 0 ? null : recent.reduce((sum, slot) => sum + of(slot), 0) / recent.length;
    const failed = known.reduce((sum, slot) => sum + slot.failed, 0);
    const all = known.flatMap((slot) => slot.connect).sort((a, b) => a - b);
    set("outgoing", count(rate((slot) => slot.client)));
    set("incoming", count(rate((slot) => slot.server)));
    set("failed", count(failed), failed > 0 ? "bad" : "good");
    set("connect p95", ms(quantile(all, 0.95)));
    set("requests", count(rate((slot) => slot.requests)));
    const took = known.flatMap((slot) => slot.request).sort((a, b) => a - b);
    set("request p95", ms(quantile(took, 0.95)));
    set("payload", `${bytes(rate((slot) => slot.sent + slot.received))}`);
    set("missed here", count(store.missed), store.missed > 0 ? "bad" : "good");
    const lines = (...of: ((slot: Second) => number)[]) => of.map((one) => slots.map((slot) => slot && one(slot)));
    const quantiles = (of: (slot: Second) => number[]) => {
      const sorted = slots.map((slot) => (slot === null ? [] : [...of(slot)].sort((a, b) => a - b)));
      return [0.5, 0.95, 0.99].map((share) => sorted.map((values) => quantile(values, share)));
    };
    connections.set([times, ...lines((s) => s.client, (s) => s.server, (s) => s.forwarded, (s) => s.failed)]);
    latency.set([times, ...quantiles((s) => s.connect)]);
    requests.set([times, ...lines((s) => s.requests, (s) => s.requestsFailed)]);
    durations.set([times, ...quantiles((s) => s.request)]);
    traffic.set([times, ...lines((s) => s.sent, (s) => s.received)]);
    trouble.set([times, ...lines((s) => s.resets, (s) => s.retransmits)]);
    const routeRows = worstRoutes(store.routes.values()).slice(0, 30).map(routeRow);
    routes.body.replaceChildren(...(routeRows.length > 0 ? routeRows : [nothing(routeColumns.length, "no request has been read yet")]));
    const rows = worst(store.peers.values()).slice(0, 30).map(row);
    peers.body.replaceChildren(...(rows.length > 0 ? rows : [nothing(columns.length, "no outgoing connection has ended yet")]));
  };
  return {
    root,
    draw,
    destroy: () => charts.forEach((one) => one.destroy()),
  };
};

const TONE: Record<api.State, string> = { failing: "error", degraded: "warning", recovering: "warning", healthy: "info" };

function stateRow(of: api.Destination): HTMLElement {
  const tone = of.state === null ? "debug" : TONE[of.state];
  return h(
    "tr",
    { class: tone },
    h("td", {}, h("span", { class: `severity ${tone}` }, of.state ?? "no outcome")),
    h("td", { class: "mono" }, of.peer),
    h("td", {}, of.because),
    h("td", { class: "num" }, ms(of.connect?.p50_ms ?? null)),
    h("td", { class: "num" }, ms(of.connect?.p95_ms ?? null)),
    h("td", { class: "num" }, of.last_outcome_seconds === null ? NONE : `${of.last_outcome_seconds} s ago`),
  );
}

function routeRow(of: Route): HTMLElement {
  const sorted = [...of.took].sort((a, b) => a - b);
  return h(
    "tr",
    { class: of.failed > 0 ? "error" : of.refused > 0 ? "warning" : "" },
    h("td", {}, of.service),
    h("td", {}, of.role),
    h("td", {}, of.method),
    h("td", { class: "mono" }, of.route === "" ? NONE : of.route),
    ...[of.requests, of.failed, of.refused].map((value) => h("td", { class: "num" }, count(value))),
    ...[0.5, 0.95, 0.99].map((share) => h("td", { class: "num" }, ms(quantile(sorted, share)))),
  );
}

function row(peer: Peer): HTMLElement {
  const sorted = [...peer.connect].sort((a, b) => a - b);
  const target = peer.reached === null ? peer.dialed : `${peer.dialed} → ${peer.reached}`;
  return h(
    "tr",
    { class: peer.failed > 0 ? "error" : peer.resets > 0 ? "warning" : "" },
    h("td", {}, peer.service),
    h("td", { class: "mono" }, target, peer.nat === "none" ? null : h("span", { class: "tag" }, peer.nat)),
    h("td", { class: "num" }, count(peer.connections)),
    h("td", { class: "num" }, count(peer.failed)),
    h("td", {}, peer.lastError ?? NONE),
    h("td", { class: "num" }, ms(quantile(sorted, 0.5))),
    h("td", { class: "num" }, ms(quantile(sorted, 0.95))),
    h("td", { class: "num" }, count(peer.resets)),
    h("td", { class: "num" }, count(peer.retransmits)),
    h("td", { class: "num" }, bytes(peer.bytes)),
  );
}
