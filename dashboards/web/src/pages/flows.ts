// Live flows, as the agent's table has them.

import * as api from "../api";
import { h, nothing, panel, table } from "../dom";
import { endpoint, type Event } from "../event";
import { isEmpty } from "../filter";
import { bytes, count, ms, NONE } from "../format";
import type { MakePage } from "../page";

const LIMIT = 500;
const EVERY_MS = 2000;

type Column = [name: string, cell: (event: Event) => string | HTMLElement, by: (event: Event) => number | string];

const COLUMNS: Column[] = [
  ["service", (e) => e.service ?? NONE, (e) => e.service ?? ""],
  ["pid", (e) => String(e.process?.pid ?? NONE), (e) => e.process?.pid ?? 0],
  ["role", (e) => e.role ?? NONE, (e) => e.role ?? ""],
  ["local", (e) => address(e.internal_ip, e.internal_port), (e) => endpoint(e.internal_ip, e.internal_port) ?? ""],
  ["peer", (e) => address(e.peer_ip, e.peer_port), (e) => endpoint(e.peer_ip, e.peer_port) ?? ""],
  ["nat", (e) => nat(e), (e) => e.nat?.status ?? ""],
  ["sent", (e) => bytes(e.bytes_sent), (e) => e.bytes_sent ?? -1],
  ["received", (e) => bytes(e.bytes_received), (e) => e.bytes_received ?? -1],
  ["rtt", (e) => ms(e.flow?.rtt_ms ?? null), (e) => e.flow?.rtt_ms ?? -1],
  ["retransmits", (e) => count(e.flow?.retransmits ?? null), (e) => e.flow?.retransmits ?? -1],
  ["age", (e) => ms(e.elapsed_ms), (e) => e.elapsed_ms ?? -1],
];

const NUMBERS = new Set(["pid", "sent", "received", "rtt", "retransmits", "age"]);

function address(ip: string | null, port: number | null): HTMLElement {
  return h("span", { class: "mono" }, endpoint(ip, port) ?? NONE);
}

function nat(event: Event): string | HTMLElement {
  const status = event.nat?.status ?? NONE;
  return status === "none" || status === NONE ? status : h("span", { class: "tag" }, status);
}

export const flows: MakePage = ({ filter, paused }) => {
  let [sorted, falling] = ["age", true];
  let shown: Event[] = [];
  let asked = 0;
  const note = h("p", { class: "note", role: "status" });
  const view = table([], "Live flows");
  const heads = COLUMNS.map(([name]) => {
    const button = h("button", { type: "button", click: () => sort(name) }, name);
    return h("th", { scope: "col", class: NUMBERS.has(name) ? "num" : "" }, button);
  });
  view.root.querySelector("thead tr")?.replaceChildren(...heads);

  const fill = () => {
    const by = COLUMNS.find(([name]) => name === sorted)?.[2] ?? (() => 0);
    const order = falling ? -1 : 1;
    const rows = [...shown].sort((a, b) => (by(a) < by(b) ? -order : by(a) > by(b) ? order : 0));
    heads.forEach((head, index) => {
      const is = COLUMNS[index]?.[0] === sorted;
      if (is) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    view.body.replaceChildren(
      ...(rows.length > 0
        ? rows.map((event) => row(event))
        : [nothing(COLUMNS.length, isEmpty(filter) ? "no connection is open" : filter.route !== "" ? "a connection has no route: its requests have" : "no open connection matches the filter")]),
    );
  };
  const sort = (name: string) => {
    falling = sorted === name ? !falling : NUMBERS.has(name);
    sorted = name;
    fill();
  };
  const ask = async () => {
    try {
      const answer = await api.flows(filter, LIMIT);
      shown = answer.flows;
      note.textContent = answer.more ? `the first ${LIMIT}; narrow them down with a filter` : `${shown.length} flows`;
      fill();
    } catch (error) {
      note.textContent = String(error instanceof Error ? error.message : error);
    }
  };
  fill();
  return {
    root: h("div", { class: "page" }, panel("Live flows", "asked of the agent every two seconds; choose one to see its life", note, view.root)),
    draw: () => {
      if (paused() || Date.now() - asked < EVERY_MS) return;
      asked = Date.now();
      void ask();
    },
  };
};

function row(event: Event): HTMLElement {
  const id = event.connection_id;
  return h(
    "tr",
    {},
    ...COLUMNS.map(([name, cell], index) => {
      const content = cell(event);
      const linked = index === 0 && id !== null ? h("a", { href: `#/connection/${encodeURIComponent(id)}` }, content) : content;
      return h("td", { class: NUMBERS.has(name) ? "num" : "" }, linked);
    }),
  );
}
