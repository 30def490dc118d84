// The event stream: connects, resumes by number after a break, and says what was missed.

import type { Event } from "./event";
import { EVERYTHING, parameters, type Filter } from "./filter";

export type Status = "connecting" | "live" | "waiting" | "refused";

export interface Listener {
  /** A stream is open: it brings the events of this run from number `from` on. */
  open(run: string, from: number): void;
  event(event: Event): void;
  status(status: Status, detail: string): void;
}

/** What a WebSocket must do; tests give their own. */
export type Socket = Pick<WebSocket, "close"> & {
  onmessage: ((message: MessageEvent) => void) | null;
  onclose: ((close: CloseEvent) => void) | null;
};

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

export class Stream {
  private socket: Socket | null = null;
  private run: string | null = null;
  private next: number | null = null;
  private wait = FIRST_WAIT_MS;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private filter = EVERYTHING;

  constructor(
    private readonly listener: Listener,
    private readonly open: (query: string) => Socket,
  ) {}

  /** Connects, or connects again with another filter. */
  start(filter: Filter): void {
    this.filter = filter;
    clearTimeout(this.timer);
    this.leave();
    this.connect();
  }

  private leave(): void {
    if (this.socket === null) return;
    this.socket.onclose = null;
    this.socket.onmessage = null;
    this.socket.close();
    this.socket = null;
  }

  private connect(): void {
    const query = new URLSearchParams(parameters(this.filter));
    if (this.run !== null && this.next !== null) {
      query.set("run", this.run);
      query.set("from_seq", String(this.next));
    }
    this.listener.status("connecting", "connecting to the agent");
    const socket = this.open(query.toString());
    this.socket = socket;
    socket.onmessage = (message) => this.receive(JSON.parse(String(message.data)));
    socket.onclose = (close) => {
      this.socket = null;
      const seconds = (this.wait / 1000).toFixed(1);
      const why = close.reason === "" ? "the connection ended" : close.reason;
      this.listener.status("waiting", `${why}; trying again in ${seconds} s`);
      // Some of the wait is chance, so that many pages do not come back at once.
      this.timer = setTimeout(() => this.connect(), this.wait * (0.75 + Math.random() / 2));
      this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
    };
  }

  private receive(frame: Event | { kind: "hello"; run: string; seq: number; host: string }): void {
    if (frame.kind === "hello") {
      const known = this.run === frame.run;
      // Of a run other than the one asked for all that is held follows.
      const all = this.run !== null && !known;
      this.run = frame.run;
      // A run already known is resumed: its events follow from where this page left.
      if (!known || this.next === null) this.next = frame.seq + 1;
      this.wait = FIRST_WAIT_MS;
      this.listener.open(frame.run, all ? 1 : this.next);
      this.listener.status("live", frame.host);
      return;
    }
    if (frame.seq !== null) this.next = frame.seq + 1;
    else if (frame.gap?.to_seq != null) this.next = frame.gap.to_seq + 1;
    this.listener.event(frame);
  }
}

/** A stream of this page's own agent. */
export function browserSocket(query: string): Socket {
  const url = new URL("api/v1/stream", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = query;
  return new WebSocket(url) as Socket;
}
