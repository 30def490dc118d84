// Where the time of a request went, as a bar.

import { h, svg } from "./dom";
import { beganAt, type Event } from "./event";
import { ms } from "./format";

export type Phase = "connect" | "accept" | "idle" | "send" | "wait" | "receive";

/** What a phase is called. */
const TITLES: Record<Phase, string> = {
  connect: "connect",
  accept: "wait for accept",
  idle: "nothing sent yet",
  send: "send",
  wait: "wait for the first byte",
  receive: "receive",
};

/** A stretch of the bar, milliseconds since its left end. */
export interface Part {
  phase: Phase;
  from: number;
  to: number;
}

/** A request this much later than its connection was there is not what the connection was made for. */
const BELONGS_MS = 1000;

/** What is known of a request's time, and of the connect before it when `flow` is of a connection just made for it. */
export function parts(event: Event, flow: Event | null): Part[] {
  const request = event.request;
  if (request === null) return [];
  const made = flow === null ? null : before(event, flow);
  const at = made?.end ?? 0;
  const known: Part[] = [...(made?.parts ?? [])];
  const { send_ms: send, ttfb_ms: first, wait_ms: wait, receive_ms: receive } = request;
  if (send !== null) known.push({ phase: "send", from: at, to: at + send });
  if (wait !== null && first !== null) known.push({ phase: "wait", from: at + first - wait, to: at + first });
  if (receive !== null && first !== null) known.push({ phase: "receive", from: at + first, to: at + first + receive });
  return known;
}

/** What came before the request on its connection. */
function before(event: Event, flow: Event): { parts: Part[]; end: number } | null {
  const [begun, connected] = [beganAt(event), beganAt(flow)];
  const phase: Phase = event.role === "server" ? "accept" : "connect";
  const took = (phase === "accept" ? flow.flow?.accept_wait_ms : flow.flow?.connect_ms) ?? null;
  if (begun === null || connected === null || took === null) return null;
  const end = begun - connected;
  // A server is sent the request before it accepts, when it is slow to.
  if (end < 0 || end - took > BELONGS_MS) return null;
  const idle: Part[] = end > took ? [{ phase: "idle", from: took, to: end }] : [];
  return { parts: [{ phase, from: 0, to: took }, ...idle], end };
}

/** Milliseconds from the left end of the bar to its right one. */
export function span(known: Part[]): number {
  return Math.max(0, ...known.map((part) => part.to));
}

const WIDTH = 240;
const HEIGHT = 16;

export interface Bar {
  root: SVGElement;
  /** Milliseconds that fill the whole width. */
  scale(most: number): void;
}

/** Parts are to scale within a bar; its length grows with the square root of the time, so that short ones are seen, too. */
export function bar(known: Part[]): Bar {
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, class: "waterfall", role: "img" });
  const total = span(known);
  const said = known.map((part) => `${TITLES[part.phase]} ${ms(part.to - part.from)}`).join(", ");
  const scale = (most: number) => {
    const length = WIDTH * Math.sqrt(total / Math.max(most, total, 1e-6));
    const x = (at: number) => (total === 0 ? 0 : (at / total) * length);
    root.replaceChildren(
      svg("title", {}, said === "" ? "not known" : said),
      ...known.map((part) => {
        // What goes on at once lies one below the other: a server may answer before it was sent everything.
        const under = part.phase === "receive" || part.phase === "accept";
        const both = known.some((other) => other !== part && other.from < part.to && part.from < other.to);
        const [y, height] = part.phase === "idle" ? [7, 2] : both ? [under ? 8 : 0, 8] : [0, HEIGHT];
        return svg("rect", { x: x(part.from), y, width: Math.max(1, x(part.to) - x(part.from)), height, class: `part ${part.phase}` });
      }),
    );
  };
  scale(total);
  return { root, scale };
}

/** What the colours are. */
export function legend(): HTMLElement {
  const shown: [Phase, string][] = [
    ["connect", "connect, or wait for accept"],
    ["send", TITLES.send],
    ["wait", TITLES.wait],
    ["receive", TITLES.receive],
  ];
  return h("p", { class: "hint keys" }, ...shown.map(([phase, title]) => h("span", { class: `key ${phase}` }, title)));
}
