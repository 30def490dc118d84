// The shell: bar, filter, pages by address (`#/flows?f=port==443`), and the one stream all of them share.

import * as api from "./api";
import { h } from "./dom";
import { SEVERITIES, type Event, type Gap } from "./event";
import { EVERYTHING, inAddress, ofAddress, type Filter } from "./filter";
import type { Page, MakePage } from "./page";
import { connection } from "./pages/connection";
import { events } from "./pages/events";
import { flows } from "./pages/flows";
import { history } from "./pages/history";
import { incidents } from "./pages/incidents";
import { map } from "./pages/map";
import { overview } from "./pages/overview";
import { probe } from "./pages/probe";
import { requests } from "./pages/requests";
import { Store } from "./store";
import { browserSocket, Stream, type Status } from "./stream";

const PAGES: Record<string, [title: string, make: MakePage]> = {
  overview: ["Overview", overview],
  flows: ["Flows", flows],
  requests: ["Requests", requests],
  map: ["Map", map],
  events: ["Events", events],
  history: ["History", history],
  incidents: ["Incidents", incidents],
  probe: ["Probe", probe],
};

interface Place {
  page: string;
  argument: string;
  filter: Filter;
}

function place(): Place {
  const [path = "", query = ""] = location.hash.slice(2).split("?", 2);
  const [page = "", argument = ""] = path.split("/", 2);
  return { page: page === "connection" || page in PAGES ? page : "overview", argument, filter: ofAddress(query) };
}

function address(page: string, filter: Filter): string {
  const query = inAddress(filter);
  return `#/${page}${query === "" ? "" : `?${query}`}`;
}

let store = new Store(Date.now);
let paused = false;
let page: Page | null = null;
let filter: Filter | null = null;

const status = h("span", { class: "status", role: "status", "aria-live": "polite" }, "connecting");
const links = Object.entries(PAGES).map(([name, [title]]) => ({ name, link: h("a", {}, title) }));
const input = h("input", {
  type: "search",
  id: "filter",
  spellcheck: "false",
  autocomplete: "off",
  placeholder: "filter: port==443",
  title: "for example severity>=warning, port==443, process.comm~^nginx; the key / leads here",
  "aria-label": "Filter",
  "aria-describedby": "filter-error",
});
const severity = h(
  "select",
  { "aria-label": "Severity", change: () => void apply() },
  h("option", { value: "" }, "any severity"),
  // Everything is debug or worse.
  ...SEVERITIES.slice(1).map((name) => h("option", { value: name }, name === "critical" ? name : `${name} or worse`)),
);
const route = h("input", {
  type: "search",
  class: "route",
  spellcheck: "false",
  autocomplete: "off",
  placeholder: "route: /api/**",
  "aria-label": "Route of requests",
  change: () => void apply(),
});
const wrong = h("p", { id: "filter-error", class: "wrong", role: "alert" });
const pause = h("button", { type: "button", "aria-pressed": "false", click: () => setPaused(!paused) }, "Pause");
const theme = h("button", { type: "button", click: nextTheme }, "Theme");
const main = document.querySelector("main") as HTMLElement;

const notice = h("p", { class: "notice", role: "status", hidden: true });

/** Events missed by reason, since the reader has seen it last; null: nobody knows how many. */
const unseen = new Map<string, number | null>();

/** What this page did not get stays said until the reader has seen it: in the feed it would soon be gone. */
function missed(gap: Gap): void {
  const before = unseen.get(gap.reason) ?? 0;
  unseen.set(gap.reason, gap.count === null ? null : before + gap.count);
  const told = [...unseen].map(([reason, count]) =>
    reason === "run_changed"
      ? "The agent was restarted. What happened in between is not known here."
      : `This page missed ${count ?? "some"} events (${reason}).`,
  );
  const seen = () => {
    unseen.clear();
    notice.hidden = true;
  };
  notice.replaceChildren(told.join(" "), " ", h("button", { type: "button", click: seen }, "Seen"));
  notice.hidden = false;
}

/** Events asked for that came before the page was opened. */
const HELD = 2000;
/** Events that come while those are asked for. */
let early: Event[] = [];

/** Gives a store that is new the events the agent still holds, up to those that the stream brings. */
async function begin(into: Store, run: string, from: number): Promise<void> {
  // Where they cannot be had what is known begins now; what is wrong shows elsewhere.
  const held = await api.events(filter ?? EVERYTHING, HELD).catch(() => []);
  if (into !== store || into.hasBegun) return;
  into.begin(held.filter((event) => event.run === run && event.seq !== null && event.seq < from));
  for (const event of early.splice(0)) into.add(event);
}

const stream = new Stream(
  {
    open: (run, from) => {
      if (!store.hasBegun) void begin(store, run, from);
    },
    event: (event) => {
      if (store.hasBegun) store.add(event);
      else early.push(event);
      if (event.gap?.scope === "client") missed(event.gap);
    },
    status: (now: Status, detail: string) => {
      status.className = `status ${now}`;
      status.textContent = now === "live" ? `live · ${detail}` : detail;
      // Perhaps it was refused for want of a token: the stream does not say why.
      if (now === "waiting") void knock();
    },
  },
  browserSocket,
);

function setPaused(to: boolean): void {
  paused = to;
  pause.setAttribute("aria-pressed", String(to));
  pause.textContent = to ? "Go on" : "Pause";
}

function nextTheme(): void {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("theme", next);
  show();
}

/** Takes what the bar says when the agent understands it; else says what is wrong with it. */
async function apply(): Promise<void> {
  const asked: Filter = { text: input.value.trim(), severity: severity.value, route: route.value.trim() };
  try {
    await api.check(asked);
    wrong.textContent = "";
    input.removeAttribute("aria-invalid");
    const here = place();
    location.hash = address(here.page === "connection" ? "events" : here.page, asked);
  } catch (error) {
    wrong.textContent = error instanceof Error ? error.message : String(error);
    input.setAttribute("aria-invalid", "true");
  }
}

function show(): void {
  const here = place();
  // A connection's page names no filter: it keeps the one that led there.
  const wanted = here.page === "connection" && filter !== null ? filter : here.filter;
  if (filter === null || inAddress(wanted) !== inAddress(filter)) {
    filter = wanted;
    [input.value, severity.value, route.value] = [filter.text, filter.severity, filter.route];
    // What was gathered under another filter says nothing about this one.
    store = new Store(Date.now);
    early = [];
    stream.start(filter);
  }
  page?.destroy?.();
  const make = here.page === "connection" ? connection : (PAGES[here.page]?.[1] ?? overview);
  page = make({ store, filter, paused: () => paused, argument: here.argument });
  const title = PAGES[here.page]?.[0] ?? "Connection";
  main.replaceChildren(h("h1", { class: "unseen" }, title), page.root);
  for (const { name, link } of links) {
    link.href = address(name, filter);
    if (name === here.page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `netprobe · ${title}`;
  page.draw();
}

document.querySelector("#bar")?.append(
  h("a", { class: "brand", href: "#/overview" }, "netprobe"),
  h("nav", { "aria-label": "Pages" }, ...links.map(({ link }) => link)),
  h(
    "form",
    {
      role: "search",
      submit: (event: SubmitEvent) => {
        event.preventDefault();
        void apply();
      },
    },
    input,
    severity,
    route,
    h("button", { type: "submit", hidden: true }, "Filter"),
    wrong,
  ),
  pause,
  theme,
  status,
  notice,
);

/** Asks for a token where the agent wants one, then begins anew. */
async function knock(): Promise<void> {
  try {
    await api.check();
    login.hidden = true;
  } catch (error) {
    login.hidden = !(error instanceof api.TokenNeeded);
  }
}

const token = h("input", { type: "password", autocomplete: "current-password", "aria-label": "Token", required: true });
const refused = h("p", { class: "wrong", role: "alert" });
const login = h(
  "form",
  {
    class: "login",
    hidden: true,
    submit: (event: SubmitEvent) => {
      event.preventDefault();
      api.openSession(token.value).then(
        () => location.reload(),
        (error: Error) => (refused.textContent = error.message),
      );
    },
  },
  h("p", {}, "This agent asks for a token: `netprobe token new` on its host makes one."),
  token,
  h("button", { type: "submit" }, "Open"),
  refused,
);
document.querySelector("#bar")?.append(login);
void knock();

const dark = matchMedia("(prefers-color-scheme: dark)");
const dress = () => {
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light");
};
dress();
dark.addEventListener("change", () => {
  dress();
  show();
});
addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Escape" && event.target instanceof HTMLInputElement) event.target.blur();
    return;
  }
  const nth = links[Number(event.key) - 1];
  if (event.key === "/") {
    event.preventDefault();
    input.focus();
  } else if (event.key === "p") setPaused(!paused);
  else if (nth !== undefined) location.hash = address(nth.name, filter ?? EVERYTHING);
});
show();
setInterval(() => page?.draw(), 250);
