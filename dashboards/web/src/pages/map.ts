// Who talks to whom: services on the left, what they dialed on the right, translation as a step on the edge.

import { h, panel, svg } from "../dom";
import { count, ms, quantile } from "../format";
import type { MakePage } from "../page";
import type { Peer } from "../store";

const MOST = 24;
const ROW = 44;
const WIDTH = 1100;
const BOX = 250;
const MIDDLE = WIDTH / 2;

/** The busiest and worst edges, with the rows of their ends. */
export function layout(peers: Iterable<Peer>): { edges: Peer[]; services: string[]; targets: string[] } {
  const edges = [...peers]
    .sort((a, b) => b.failed - a.failed || b.connections - a.connections)
    .slice(0, MOST)
    .sort((a, b) => a.service.localeCompare(b.service) || a.dialed.localeCompare(b.dialed));
  const distinct = (values: string[]) => [...new Set(values)];
  return {
    edges,
    services: distinct(edges.map((edge) => edge.service)),
    targets: distinct(edges.map((edge) => edge.dialed)),
  };
}

export const map: MakePage = ({ store, paused }) => {
  const frame = h("div", { class: "scroll map", tabindex: 0, role: "region", "aria-label": "Service map" });
  const hint = "outgoing and forwarded connections since this page was opened; the thicker, the more; red has failures";
  let drawn = -1;
  return {
    root: h("div", { class: "page" }, panel("Who talks to whom", hint, frame)),
    draw: () => {
      if (paused() || drawn === store.received) return;
      drawn = store.received;
      frame.replaceChildren(store.peers.size === 0 ? h("p", { class: "nothing" }, "no outgoing connection has ended yet") : picture(store.peers.values()));
    },
  };
};

function picture(peers: Iterable<Peer>): SVGElement {
  const { edges, services, targets } = layout(peers);
  const rows = Math.max(services.length, targets.length);
  const height = rows * ROW + 20;
  const y = (index: number, of: number) => 10 + ((index + 0.5) * rows * ROW) / of;
  const most = Math.max(...edges.map((edge) => edge.connections));
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, width: WIDTH, height, role: "img" });
  root.append(svg("title", {}, `${services.length} services, ${targets.length} destinations`));
  for (const edge of edges) {
    const from = y(services.indexOf(edge.service), services.length);
    const to = y(targets.indexOf(edge.dialed), targets.length);
    const [left, right] = [BOX, WIDTH - BOX];
    const path = `M${left},${from} C${MIDDLE - 60},${from} ${MIDDLE - 60},${to} ${MIDDLE},${to} L${right},${to}`;
    const width = 1 + 6 * Math.sqrt(edge.connections / most);
    root.append(svg("path", { d: path, class: edge.failed > 0 ? "edge bad" : "edge", "stroke-width": width }));
    if (edge.nat !== "none") {
      root.append(
        svg(
          "g",
          {},
          svg("rect", { x: MIDDLE - 50, y: to - 11, width: 84, height: 22, rx: 11, class: "step" }),
          svg("text", { x: MIDDLE - 8, y: to + 4, class: "step-text", "text-anchor": "middle" }, edge.nat),
          svg("title", {}, `translated: reaches ${edge.reached ?? "an unknown address"}`),
        ),
      );
    }
  }
  const box = (x: number, at: number, text: string, under: string | null) =>
    svg(
      "g",
      {},
      svg("rect", { x, y: at - 16, width: BOX, height: 32, rx: 6, class: "node" }),
      svg("text", { x: x + 12, y: at + (under === null ? 5 : -1), class: "name" }, cut(text)),
      under !== null && svg("text", { x: x + 12, y: at + 12, class: "under" }, cut(under)),
      svg("title", {}, under === null ? text : `${text} → ${under}`),
    );
  services.forEach((name, index) => root.append(box(0, y(index, services.length), name, null)));
  targets.forEach((name, index) => {
    const reached = edges.find((edge) => edge.dialed === name && edge.reached !== null)?.reached ?? null;
    const under = reached === null || reached === name ? null : `reaches ${reached}`;
    const at = y(index, targets.length);
    root.append(svg("text", { x: WIDTH - BOX - 8, y: at - 8, class: "said", "text-anchor": "end" }, said(edges, name)));
    root.append(box(WIDTH - BOX, y(index, targets.length), name, under));
  });
  return root;
}

/** All that goes to a destination, in one line. What a gateway forwards is the client's connection once more. */
function said(edges: Peer[], target: string): string {
  const to = edges.filter((edge) => edge.dialed === target);
  const own = to.filter((edge) => edge.service !== "forwarded");
  const counted = own.length > 0 ? own : to;
  const total = counted.reduce((sum, edge) => sum + edge.connections, 0);
  const failed = counted.reduce((sum, edge) => sum + edge.failed, 0);
  const times = counted.flatMap((edge) => edge.connect).sort((a, b) => a - b);
  const parts = [`${count(total)} connection${total === 1 ? "" : "s"}`];
  if (times.length > 0) parts.push(`p95 ${ms(quantile(times, 0.95))}`);
  if (failed > 0) parts.push(`${count(failed)} failed`);
  return parts.join(" · ");
}

function cut(text: string): string {
  return text.length > 32 ? `${text.slice(0, 31)}…` : text;
}
