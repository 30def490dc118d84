import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { EVERYTHING } from "../../src/filter";
import { Stream, type Socket } from "../../src/stream";

interface Fake extends Socket {
  query: URLSearchParams;
  closed: boolean;
}

let sockets: Fake[] = [];
const seen: (number | null)[] = [];
const states: string[] = [];
const opened: string[] = [];

function stream(): Stream {
  const listener = {
    open: (run: string, from: number) => opened.push(`${run} ${from}`),
    event: (event: { seq: number | null }) => seen.push(event.seq),
    status: (status: string) => states.push(status),
  };
  return new Stream(listener, (query) => {
    const socket: Fake = { query: new URLSearchParams(query), closed: false, onmessage: null, onclose: null, close: () => (socket.closed = true) };
    sockets.push(socket);
    return socket;
  });
}

function say(socket: Fake | undefined, frame: object): void {
  socket?.onmessage?.({ data: JSON.stringify(frame) } as MessageEvent);
}

beforeEach(() => {
  vi.useFakeTimers();
  sockets = [];
  seen.length = 0;
  states.length = 0;
  opened.length = 0;
});
afterEach(() => void vi.useRealTimers());

test("comes back after a break and goes on with the next number", () => {
  stream().start({ text: "port==80", severity: "warning", route: "/a/**" });
  say(sockets[0], { kind: "hello", run: "a", seq: 10, host: "h" });
  say(sockets[0], { kind: "flow", seq: 11 });
  sockets[0]?.onclose?.({ reason: "the agent ends" } as CloseEvent);
  expect(states.at(-1)).toBe("waiting");
  vi.advanceTimersByTime(1000);
  expect(Object.fromEntries(sockets[1]?.query ?? [])).toEqual({ filter: "port==80", severity: "warning", route: "/a/**", run: "a", from_seq: "12" });
  say(sockets[1], { kind: "hello", run: "a", seq: 14, host: "h" });
  expect(states.at(-1)).toBe("live");
  sockets[1]?.onclose?.({ reason: "" } as CloseEvent);
  vi.advanceTimersByTime(1000);
  // Nothing came in between: it still asks for what it has not seen.
  expect(sockets[2]?.query.get("from_seq")).toBe("12");
});

test("says from which number on it brings events, so that none before is taken twice", () => {
  const one = stream();
  one.start(EVERYTHING);
  say(sockets[0], { kind: "hello", run: "a", seq: 10, host: "h" });
  say(sockets[0], { kind: "flow", seq: 11 });
  one.start({ ...EVERYTHING, text: "port==80" });
  say(sockets[1], { kind: "hello", run: "a", seq: 20, host: "h" });
  // Another run is told from its beginning.
  sockets[1]?.onclose?.({ reason: "" } as CloseEvent);
  vi.advanceTimersByTime(1000);
  say(sockets[2], { kind: "hello", run: "b", seq: 5, host: "h" });
  expect(opened).toEqual(["a 11", "a 12", "b 1"]);
});

test("waits longer each time, with a bound", () => {
  stream().start(EVERYTHING);
  for (let attempt = 0; attempt < 12; attempt += 1) {
    sockets.at(-1)?.onclose?.({ reason: "" } as CloseEvent);
    vi.advanceTimersByTime(12_501);
  }
  expect(sockets.length).toBe(13);
});

test("a gap moves on: what was missed is not asked for again", () => {
  stream().start(EVERYTHING);
  say(sockets[0], { kind: "hello", run: "a", seq: 0, host: "h" });
  say(sockets[0], { kind: "gap", seq: null, gap: { to_seq: 40 } });
  sockets[0]?.onclose?.({ reason: "" } as CloseEvent);
  vi.advanceTimersByTime(1000);
  expect(sockets[1]?.query.get("from_seq")).toBe("41");
  expect(seen).toEqual([null]);
});

test("another filter leaves the old stream", () => {
  const one = stream();
  one.start(EVERYTHING);
  one.start({ ...EVERYTHING, text: "port==1" });
  expect([sockets[0]?.closed, sockets[1]?.query.get("filter")]).toEqual([true, "port==1"]);
});
