// The overview: is it well, and if not, since when and with whom.

import * as api from "../api";
import { chart } from "../charts";
import { h, nothing, panel, table } from "../dom";
import { bytes, count, ms, NONE, quantile } from "../format";
import type { MakePage } from "../page";
import type { Peer } from "../store";

const SHOWN = 300;
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
  );
  const trouble = chart(
    "Resets and retransmitted segments per second",
    [
      { label: "resets", colour: "--bad" },
      { label: "retransmits", colour: "--c4" },
    ],
    (value) => count(value),
  );
  const columns = ["service", "destination", "#connections", "#failed", "last error", "#connect p50", "#p95", "#resets", "#retransmits", "#payload"];
  const peers = table(columns, "Destinations, worst first");
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
      tile("payload", `per second, last ${RATE_OVER} s`),
      tile("lost records", "in this run of the agent"),
      tile("missed here", "events this page did not get"),
    ),
    h("div", { class: "charts" }, connections.root, latency.root, traffic.root, trouble.root),
    panel("States", "as the agent judges destinations by the last five minutes, worst first", states.root),
    panel("Destinations", "worst first, since this page was opened", peers.root),
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
    const { times, slots } = store.series(SHOWN);
    const recent = slots.slice(-RATE_OVER);
    const rate = (of: (slot: (typeof slots)[number]) => number) =>
      recent.reduce((sum, slot) => sum + of(slot), 0) / RATE_OVER;
    const failed = slots.reduce((sum, slot) => sum + slot.failed, 0);
    const all = slots.flatMap((slot) => slot.connect).sort((a, b) => a - b);
    set("outgoing", count(rate((slot) => slot.client)));
    set("incoming", count(rate((slot) => slot.server)));
    set("failed", count(failed), failed > 0 ? "bad" : "good");
    set("connect p95", ms(quantile(all, 0.95)));
    set("payload", `${bytes(rate((slot) => slot.sent + slot.received))}`);
    set("missed here", count(store.missed), store.missed > 0 ? "bad" : "good");
    const sorted = slots.map((slot) => [...slot.connect].sort((a, b) => a - b));
    connections.set([times, slots.map((s) => s.client), slots.map((s) => s.server), slots.map((s) => s.forwarded), slots.map((s) => s.failed)]);
    latency.set([times, ...[0.5, 0.95, 0.99].map((share) => sorted.map((values) => quantile(values, share)))]);
    traffic.set([times, slots.map((s) => s.sent), slots.map((s) => s.received)]);
    trouble.set([times, slots.map((s) => s.resets), slots.map((s) => s.retransmits)]);
    const rows = worst(store.peers.values()).slice(0, 30).map(row);
    peers.body.replaceChildren(...(rows.length > 0 ? rows : [nothing(columns.length, "no outgoing connection has ended yet")]));
  };
  return {
    root,
    draw,
    destroy: () => [connections, latency, traffic, trouble].forEach((one) => one.destroy()),
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
