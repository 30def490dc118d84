// Events as they come.

import { h, nothing, panel, table } from "../dom";
import { endpoint, isFinal, type Event } from "../event";
import { isEmpty } from "../filter";
import { bytes, clock, day, ms, NONE } from "../format";
import type { MakePage } from "../page";

const SHOWN = 200;
export const COLUMNS = ["time", "severity", "what", "service", "between", "how it went"];

export const events: MakePage = ({ store, filter, paused }) => {
  const view = table(COLUMNS, "Events, newest first");
  const none = isEmpty(filter) ? "nothing has happened yet" : "nothing that matches the filter has happened yet";
  view.body.replaceChildren(nothing(COLUMNS.length, none));
  let drawn = 0;
  return {
    root: h("div", { class: "page" }, panel("Events", "newest first; hold the page still with Pause", view.root)),
    draw: () => {
      if (paused() || store.received === drawn) return;
      // Rows that are there stay as they are: whoever is about to choose one must not lose it.
      const fresh = Math.min(store.received - drawn, SHOWN);
      if (drawn === 0) view.body.replaceChildren();
      drawn = store.received;
      view.body.prepend(...store.events.slice(-fresh).reverse().map((event) => row(event)));
      while (view.body.rows.length > SHOWN) view.body.lastElementChild?.remove();
    },
  };
};

/** A row; events of other days say which. */
export function row(event: Event, dated = false): HTMLElement {
  const id = event.connection_id;
  const what = event.flow === null ? event.kind : `${event.protocol ?? ""} ${event.flow.state}`;
  return h(
    "tr",
    { class: event.severity },
    h("td", { class: "mono" }, dated ? `${day(event.ts)} ${clock(event.ts)}` : clock(event.ts)),
    h("td", {}, h("span", { class: `severity ${event.severity}` }, event.severity)),
    h("td", {}, id === null ? what : h("a", { href: `#/connection/${encodeURIComponent(id)}` }, what)),
    h("td", {}, event.service ?? NONE),
    h("td", { class: "mono" }, between(event)),
    h("td", {}, outcome(event)),
  );
}

function between(event: Event): string {
  const here = endpoint(event.internal_ip, event.internal_port);
  const there = endpoint(event.peer_ip, event.peer_port);
  if (here === null && there === null) return NONE;
  const arrow = event.role === "server" ? "←" : "→";
  const reached = endpoint(event.actual_peer_ip, event.actual_peer_port);
  const behind = event.role !== "server" && reached !== null && reached !== there ? ` (${reached})` : "";
  return `${here ?? "?"} ${arrow} ${there ?? "?"}${behind}`;
}

/** One line that says how it went. */
export function outcome(event: Event): string {
  if (event.gap !== null) {
    const { stage, reason, count, scope } = event.gap;
    const lost = scope === "client" ? `${count ?? "an unknown number of"} events missed by this page` : `${count ?? "an unknown number"} lost`;
    return `${lost}: ${stage}, ${reason}`;
  }
  if (event.agent !== null) return event.agent.message ?? event.agent.action;
  if (event.request !== null) {
    const { method, route, status_code, error, wait_ms } = event.request;
    const told = [`${method ?? ""} ${route ?? ""}`.trim(), error ?? status_code, `took ${ms(event.elapsed_ms)}`];
    if (wait_ms !== null) told.push(`of it waited ${ms(wait_ms)}`);
    return told.filter((part) => part !== null && part !== "").join(" · ");
  }
  const flow = event.flow;
  if (flow === null) return NONE;
  const parts: string[] = [];
  if (flow.error !== null) parts.push(flow.error);
  if (isFinal(event) && flow.close_reason !== null) parts.push(flow.close_reason);
  if (flow.connect_ms !== null) parts.push(`connect ${ms(flow.connect_ms)}`);
  if (flow.accept_wait_ms !== null) parts.push(`accept wait ${ms(flow.accept_wait_ms)}`);
  if (event.bytes_sent !== null) parts.push(`sent ${bytes(event.bytes_sent)}`);
  if (event.bytes_received !== null) parts.push(`received ${bytes(event.bytes_received)}`);
  if ((flow.retransmits ?? 0) > 0) parts.push(`${flow.retransmits} retransmits`);
  return parts.join(" · ");
}
