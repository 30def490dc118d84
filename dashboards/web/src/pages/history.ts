// The history: events of the archive, by time and service, page by page.

import * as api from "../api";
import { h, nothing, panel, table } from "../dom";
import { COLUMNS, row } from "./events";
import type { MakePage } from "../page";

const SPANS: [title: string, minutes: number][] = [
  ["15 minutes", 15],
  ["hour", 60],
  ["6 hours", 360],
  ["day", 1440],
  ["7 days", 10_080],
  ["30 days", 43_200],
];

export const history: MakePage = ({ filter }) => {
  const view = table(COLUMNS, "Events of the archive, oldest first");
  const span = h("select", { "aria-label": "Since" }, ...SPANS.map(([title, minutes]) => h("option", { value: minutes }, `last ${title}`)));
  const service = h("input", { type: "search", placeholder: "every service", "aria-label": "Service", autocomplete: "off" });
  const load = h("button", { type: "submit" }, "Load");
  const more = h("button", { type: "button", hidden: true, click: () => void read(next) }, "More");
  const told = h("p", { class: "hint", role: "status" }, "What the archive has; what is younger than a segment is on its way there.");
  const form = h(
    "form",
    {
      class: "choice",
      submit: (event: SubmitEvent) => {
        event.preventDefault();
        view.body.replaceChildren();
        since = new Date(Date.now() - Number(span.value) * 60_000).toISOString();
        void read(null);
      },
    },
    span,
    service,
    load,
  );
  let since = "";
  let next: string | null = null;
  let shown = 0;

  async function read(cursor: string | null): Promise<void> {
    if (cursor === null) shown = 0;
    load.disabled = more.disabled = true;
    told.textContent = "reading …";
    try {
      const page = await api.archive(filter, service.value.trim(), since, cursor);
      next = page.next_cursor;
      shown += page.events.length;
      view.body.append(...page.events.map((event) => row(event, true)));
      if (shown === 0) view.body.replaceChildren(nothing(COLUMNS.length, "the archive has nothing that matches"));
      const damaged = page.damaged.length === 0 ? "" : ` Not readable: ${page.damaged.join("; ")}.`;
      told.textContent = `${shown} events${next === null ? ", that is all" : ", and more"}.${damaged}`;
    } catch (error) {
      next = null;
      told.textContent = error instanceof Error ? error.message : String(error);
    }
    more.hidden = next === null;
    load.disabled = more.disabled = false;
  }

  view.body.replaceChildren(nothing(COLUMNS.length, "choose since when, and Load; the filter above holds here, too"));
  return { root: h("div", { class: "page" }, panel("History", "the archive, oldest first", form, told, view.root, more)), draw: () => {} };
};
