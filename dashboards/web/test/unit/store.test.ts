import { expect, test } from "vitest";
import type { Event } from "../../src/event";
import { worst } from "../../src/pages/overview";
import { layout } from "../../src/pages/map";
import { life } from "../../src/pages/connection";
import { quantile, bytes, ms } from "../../src/format";
import { Store } from "../../src/store";

const NOW = Date.parse("2026-11-21T12:00:10Z");

function event(fields: Partial<Event>, flow: Partial<NonNullable<Event["flow"]>> = {}): Event {
  const none = { syn_retransmits: 0, rtt_ms: null, rtt_var_ms: null, retransmits: 0, segments_out: 1, segments_in: 1 };
  return {
    kind: "flow", host: "h", run: "r", seq: 1, ts: "2026-11-21T12:00:10Z", started_at: null, elapsed_ms: 5,
    severity: "info", connection_id: "c", trace_id: "t", service: "curl", protocol: "tcp", role: "client", netns: 1,
    internal_ip: "10.0.0.1", internal_port: 4000, external_ip: "10.0.0.1", external_port: 4000,
    peer_ip: "10.0.0.2", peer_port: 80, actual_peer_ip: "10.0.0.2", actual_peer_port: 80,
    nat: { status: "none", method: null, hops: [] }, process: null, io_process: null,
    bytes_sent: 100, bytes_received: 200, flags: [], gap: null, agent: null,
    ...fields,
    flow: { state: "closed", connect_ms: 1, accept_wait_ms: null, close_reason: "fin", error: null, ...none, ...flow },
  };
}

test("bytes of a long connection are counted once, as they move", () => {
  const store = new Store(() => NOW);
  store.add(event({ bytes_sent: 10, bytes_received: 0 }, { state: "open" }));
  store.add(event({ bytes_sent: 50, bytes_received: 7 }, { state: "update" }));
  store.add(event({ bytes_sent: 60, bytes_received: 9 }));
  const { slots } = store.series(60);
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
  for (let port = 0; port < 3000; port += 1) store.add(event({ peer_port: port, connection_id: `c${port}` }));
  expect(store.events.length).toBeLessThanOrEqual(1000);
  expect(store.peers.size).toBeLessThanOrEqual(500);
});

test("a life says what went wrong", () => {
  const points = life(event({ elapsed_ms: 7000 }, { state: "failed", connect_ms: null, syn_retransmits: 2, error: "ETIMEDOUT" }));
  expect(points.map((point) => point.bad)).toEqual([false, true, true]);
  expect(points.at(-1)?.text).toContain("ETIMEDOUT");
});

test("figures for people", () => {
  expect([bytes(null), bytes(512), bytes(1536), ms(0.05), ms(12_345)]).toEqual(["–", "512 B", "1.5 KiB", "50 µs", "12 s"]);
  expect([quantile([], 0.5), quantile([1, 2, 3, 4], 0.5), quantile([1, 2, 3, 4], 0.99)]).toEqual([null, 2, 4]);
});
