import { expect, test } from "vitest";
import { beganAt, type Event } from "../../src/event";
import { inAddress, ofAddress } from "../../src/filter";
import { worst, worstRoutes } from "../../src/pages/overview";
import { layout } from "../../src/pages/map";
import { life } from "../../src/pages/connection";
import { quantile, bytes, ms } from "../../src/format";
import { Store } from "../../src/store";
import { parts, span } from "../../src/waterfall";

const NOW = Date.parse("2026-11-21T12:00:10Z");

function event(fields: Partial<Event>, flow: Partial<NonNullable<Event["flow"]>> = {}): Event {
  const none = { syn_retransmits: 0, rtt_ms: null, rtt_var_ms: null, retransmits: 0, segments_out: 1, segments_in: 1 };
  return {
    kind: "flow", host: "h", run: "r", seq: 1, ts: "2026-11-21T12:00:10Z", started_at: null, elapsed_ms: 5,
    severity: "info", connection_id: "c", trace_id: "t", service: "curl", protocol: "tcp", role: "client", netns: 1,
    internal_ip: "10.0.0.1", internal_port: 4000, external_ip: "10.0.0.1", external_port: 4000,
    peer_ip: "10.0.0.2", peer_port: 80, actual_peer_ip: "10.0.0.2", actual_peer_port: 80,
    nat: { status: "none", method: null, hops: [] }, process: null, io_process: null,
    bytes_sent: 100, bytes_received: 200, flags: [], request: null, gap: null, agent: null,
    ...fields,
    flow: { state: "closed", connect_ms: 1, accept_wait_ms: null, close_reason: "fin", error: null, ...none, ...flow },
  };
}

test("bytes of a long connection are counted once, as they move", () => {
  const store = new Store(() => NOW);
  store.add(event({ bytes_sent: 10, bytes_received: 0 }, { state: "open" }));
  store.add(event({ bytes_sent: 50, bytes_received: 7 }, { state: "update" }));
  store.add(event({ bytes_sent: 60, bytes_received: 9 }));
  const { slots } = store.series(60, 300);
  const now = store.seconds.get(NOW / 1000);
  expect([now?.sent, now?.received, now?.client]).toEqual([60, 9, 1]);
  expect(slots.length).toBe(60);
});

test("what moved before the page was opened is not charged to now", () => {
  const store = new Store(() => NOW);
  store.add(event({ bytes_sent: 1e9 }, { state: "update" }));
  store.add(event({ bytes_sent: 1e9 + 5, connection_id: "c" }));
  store.add(event({ bytes_sent: 1e9, connection_id: "old", elapsed_ms: 1e6 }));
  expect(store.seconds.get(NOW / 1000)?.sent).toBe(5);
});

test("what was before the page, and before what the agent holds, is not known: not zero", () => {
  const store = new Store(() => NOW);
  expect(store.hasBegun).toBe(false);
  const held = [event({ ts: "2026-11-21T12:00:04.5Z" }), event({ ts: "2026-11-21T12:00:06Z", connection_id: "d" })];
  store.begin(held);
  expect(store.hasBegun).toBe(true);
  const { times, slots } = store.series(10, 300);
  // Of second 4 the agent held a part.
  expect(times.map((time, index) => [time % 60, slots[index] && slots[index].client])).toEqual([
    [0, null], [1, null], [2, null], [3, null], [4, null], [5, 0], [6, 1], [7, 0], [8, 0], [9, 0],
  ]);
  expect([store.events.length, store.received]).toEqual([2, 2]);
  // What is held may be long past: only what comes says how far this clock is off.
  expect(store.agentNow()).toBe(NOW / 1000);
});

test("the agent's clock rules", () => {
  const store = new Store(() => NOW - 3_600_000);
  store.add(event({}));
  expect(store.agentNow()).toBe(NOW / 1000);
});

test("failures come first, with their error", () => {
  const store = new Store(() => NOW);
  store.add(event({ peer_port: 80 }));
  store.add(event({ peer_port: 81 }, { state: "failed", error: "ECONNREFUSED", connect_ms: null }));
  const [first] = worst(store.peers.values());
  expect([first?.dialed, first?.failed, first?.lastError]).toEqual(["10.0.0.2:81", 1, "ECONNREFUSED"]);
});

test("the map has translation on its edge", () => {
  const store = new Store(() => NOW);
  store.add(event({ nat: { status: "dnat", method: null, hops: [] }, actual_peer_ip: "10.9.9.9", actual_peer_port: 8080 }));
  const { edges, services, targets } = layout(store.peers.values());
  expect([edges[0]?.nat, edges[0]?.reached]).toEqual(["dnat", "10.9.9.9:8080"]);
  expect([services, targets]).toEqual([["curl"], ["10.0.0.2:80"]]);
});

test("gaps are counted by whom they concern", () => {
  const store = new Store(() => NOW);
  const gap = { stage: "stream", reason: "slow_client", count: 7, from_seq: 1, to_seq: 7 };
  store.add({ ...event({ kind: "gap", gap: { ...gap, scope: "client" } }), flow: null });
  store.add({ ...event({ kind: "gap", gap: { ...gap, stage: "kernel", scope: "agent" } }), flow: null });
  expect([store.missed, store.losses.length]).toEqual([7, 1]);
});

test("everything is bounded", () => {
  const store = new Store(() => NOW);
  for (let port = 0; port < 3000; port += 1) {
    store.add(event({ peer_port: port, connection_id: `c${port}` }));
    store.add(request({}, { route: `/${port}` }));
  }
  expect(store.events.length).toBeLessThanOrEqual(1000);
  expect([store.peers.size, store.routes.size]).toEqual([500, 300]);
});

test("a life says what went wrong", () => {
  const points = life(event({ elapsed_ms: 7000 }, { state: "failed", connect_ms: null, syn_retransmits: 2, error: "ETIMEDOUT" }));
  expect(points.map((point) => point.bad)).toEqual([false, true, true]);
  expect(points.at(-1)?.text).toContain("ETIMEDOUT");
});

function request(fields: Partial<Event>, body: Partial<NonNullable<Event["request"]>> = {}): Event {
  const known = { protocol: "http", method: "GET", route: "/file", status_code: 200, error: null, tls: false };
  const times = { send_ms: 1, ttfb_ms: 11, wait_ms: 10, receive_ms: 4 };
  const base = event({ kind: "request", elapsed_ms: 15, started_at: "2026-11-21T12:00:00.020Z", ...fields });
  return { ...base, flow: null, request: { ...known, ...times, ...body } };
}

test("requests are counted by route, those that failed first", () => {
  const store = new Store(() => NOW);
  store.add(request({}));
  store.add(request({ severity: "error", elapsed_ms: 30 }, { route: "/broken", status_code: 503 }));
  store.add(request({ severity: "warning" }, { route: "/none", status_code: 404 }));
  const second = store.seconds.get(NOW / 1000);
  expect([second?.requests, second?.requestsFailed, second?.request]).toEqual([3, 1, [15, 30, 15]]);
  expect([second?.client, second?.sent]).toEqual([0, 0]);
  expect(worstRoutes(store.routes.values()).map((of) => [of.route, of.failed, of.refused])).toEqual([
    ["/broken", 1, 0],
    ["/none", 0, 1],
    ["/file", 0, 0],
  ]);
});

test("a waterfall begins with the connect that was made for the request", () => {
  const flow = event({ started_at: "2026-11-21T12:00:00.010Z" }, { connect_ms: 6 });
  const shown = (known: ReturnType<typeof parts>) => known.map((part) => [part.phase, Math.round(part.from), Math.round(part.to)]);
  expect(shown(parts(request({}), flow))).toEqual([
    ["connect", 0, 6],
    ["idle", 6, 10],
    ["send", 10, 11],
    ["wait", 11, 21],
    ["receive", 21, 25],
  ]);
  // Of a connection kept alive the connect was long ago.
  const late = request({ started_at: "2026-11-21T12:00:09Z" });
  expect(shown(parts(late, flow))[0]).toEqual(["send", 0, 1]);
  expect(span(parts(late, flow))).toBe(15);
  // A server that answers before it was sent everything: nobody waited.
  expect(shown(parts(request({}, { send_ms: 20, wait_ms: null }), null))).toEqual([
    ["send", 0, 20],
    ["receive", 11, 15],
  ]);
  expect(parts(request({}, { send_ms: null, wait_ms: null, receive_ms: null }), null)).toEqual([]);
});

test("a life has its first bytes, and says when segments were sent again", () => {
  const began = "2026-11-21T12:00:00Z";
  const open = event({ started_at: began, elapsed_ms: 1000 }, { state: "open", retransmits: 2 });
  const last = event({ started_at: began, elapsed_ms: 9000 }, { retransmits: 3, close_reason: "reset_remote" });
  expect(life(last, [open, request({}), last]).map((point) => point.text)).toEqual([
    "SYN",
    "established after 1.00 ms",
    "first request after 20 ms",
    "first byte of the answer after 31 ms",
    "2 retransmitted by 1.0 s",
    "1 retransmitted, reset_remote after 9.0 s",
  ]);
});

test("beginnings keep what is below a millisecond", () => {
  expect(beganAt(event({ started_at: "2026-11-21T12:00:10.000250500Z" }))).toBeCloseTo(NOW + 0.2505, 3);
  expect(beganAt(event({ started_at: null }))).toBeNull();
});

test("a link keeps everything that was chosen", () => {
  const filter = { text: "port==80", severity: "warning", route: "/a/**" };
  expect(ofAddress(inAddress(filter))).toEqual(filter);
});

test("figures for people", () => {
  expect([bytes(null), bytes(512), bytes(1536), ms(0.05), ms(12_345)]).toEqual(["–", "512 B", "1.5 KiB", "50 µs", "12 s"]);
  expect([quantile([], 0.5), quantile([1, 2, 3, 4], 0.5), quantile([1, 2, 3, 4], 0.99)]).toEqual([null, 2, 4]);
});
