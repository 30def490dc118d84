// The probe's own page: what it can do here, whether it lost anything, what it costs.

import * as api from "../api";
import { h, nothing, panel, table } from "../dom";
import { bytes, count, ms, NONE } from "../format";
import type { MakePage } from "../page";

const EVERY_MS = 3000;

export const probe: MakePage = () => {
  const content = h("div", { class: "page" }, h("p", { class: "note", role: "status" }, "asking the agent…"));
  let asked = 0;
  const ask = async () => {
    try {
      content.replaceChildren(...parts(await api.probe()));
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      content.replaceChildren(h("p", { class: "note", role: "status" }, message));
    }
  };
  return {
    root: content,
    draw: () => {
      if (Date.now() - asked < EVERY_MS) return;
      asked = Date.now();
      void ask();
    },
  };
};

function sum(counts: Record<string, number>): number {
  return Object.values(counts).reduce((total, value) => total + value, 0);
}

function tile(name: string, value: string, hint: string, state = ""): HTMLElement {
  return h("div", { class: "tile" }, h("span", {}, name), h("strong", { class: state }, value), h("small", {}, hint));
}

function parts(report: api.Probe): HTMLElement[] {
  const kernel = report.ledger?.kernel;
  const lost = kernel?.lost.reduce((total, loss) => total + loss.count, 0) ?? null;
  const closes = kernel === undefined ? null : kernel.closes && (report.ledger?.sinks.every((sink) => sink.closes) ?? false);
  const uptime = report.uptime_seconds;
  const cpu = report.cost?.cpu_seconds ?? null;
  return [
    h(
      "section",
      { class: "tiles", "aria-label": "The agent" },
      tile("netprobe", report.agent_version, `Linux ${report.kernel.release}`),
      tile("running for", ms(uptime === null ? null : uptime * 1000), `run ${report.run ?? NONE}`),
      tile("lost records", count(lost), "between kernel and agent", lost === null ? "" : lost > 0 ? "bad" : "good"),
      tile("ledger", closes === null ? NONE : closes ? "closes" : "open", "traffic in flight leaves it open for a moment", closes === true ? "good" : ""),
      tile("processor", cpu === null || !uptime ? NONE : `${((100 * cpu) / uptime).toFixed(1)} %`, "of one core, since the start"),
      tile("memory", bytes(report.cost?.memory_bytes ?? null), "resident"),
      tile("ring", report.ring === null ? NONE : `${(report.ring.fill * 100).toFixed(0)} %`, `of ${bytes(report.ring?.bytes ?? null)} in use`),
    ),
    ...(report.notices.length === 0 ? [] : [panel("To be read", null, h("ul", {}, ...report.notices.map((notice) => h("li", {}, notice))))]),
    panel("What is measured, and how", "the best method this kernel allows, and why not a better one", facts(report)),
    panel("Ledger", "what the hooks saw, and what became of every event", ledger(report)),
    panel("Programs and maps", "times need probe.statistics", costs(report)),
  ];
}

function facts(report: api.Probe): HTMLElement {
  const view = table(["fact", "method", "why not a better one"], "Facts");
  view.body.replaceChildren(
    ...report.facts.map((fact) =>
      h(
        "tr",
        { class: fact.method === null && !fact.off ? "warning" : "" },
        h("td", {}, fact.fact, fact.required ? h("span", { class: "tag" }, "required") : null),
        h("td", { class: "mono" }, fact.method ?? (fact.off ? "off" : "none")),
        h("td", {}, ...(fact.off ? ["switched off"] : refusals(fact))),
      ),
    ),
  );
  return view.root;
}

function refusals(fact: api.Fact): HTMLElement[] {
  return fact.refused.map((refused) => h("p", {}, h("b", {}, refused.method), `: ${refused.reason}`));
}

function reasons(counts: Record<string, number>): string {
  const told = Object.entries(counts).filter(([, value]) => value > 0);
  return told.length === 0 ? "0" : told.map(([reason, value]) => `${count(value)} ${reason}`).join(", ");
}

function ledger(report: api.Probe): HTMLElement {
  const columns = ["stage", "#came", "#went on", "#lost", "#left out on purpose", "#waits", "balance"];
  const view = table(columns, "Ledger");
  if (report.ledger === null) {
    view.body.replaceChildren(nothing(columns.length, "the agent has not counted yet"));
    return view.root;
  }
  const { kernel, sinks } = report.ledger;
  const mark = (closes: boolean) => h("td", { class: closes ? "good" : "" }, closes ? "✓ closes" : "in flight");
  const lost = Object.fromEntries(kernel.lost.map((loss) => [loss.reason, loss.count]));
  const cells = (...texts: string[]) => texts.map((text) => h("td", { class: "num" }, text));
  view.body.replaceChildren(
    h("tr", {}, h("td", {}, "kernel → agent"), ...cells(count(sum(kernel.seen)), count(sum(kernel.drained)), reasons(lost), NONE, NONE), mark(kernel.closes)),
    ...sinks.map((sink) =>
      h(
        "tr",
        {},
        h("td", {}, `agent → ${sink.sink}`),
        ...cells(count(sink.emitted), count(sink.delivered), reasons(sink.lost), reasons(sink.suppressed), count(sink.queued)),
        mark(sink.closes),
      ),
    ),
  );
  return view.root;
}

function costs(report: api.Probe): HTMLElement {
  const programs = table(["program", "#runs", "#time", "#a run"], "Programs");
  programs.body.replaceChildren(
    ...report.programs.map((one) => {
      const each = one.runs === null || one.run_ns === null || one.runs === 0 ? null : one.run_ns / one.runs;
      const cells = [count(one.runs), ms(one.run_ns === null ? null : one.run_ns / 1e6), each === null ? NONE : `${each.toFixed(0)} ns`];
      return h("tr", {}, h("td", { class: "mono" }, one.name), ...cells.map((text) => h("td", { class: "num" }, text)));
    }),
  );
  const maps = table(["map", "#entries", "#room"], "Maps");
  maps.body.replaceChildren(
    ...report.maps.map((one) =>
      h("tr", {}, h("td", { class: "mono" }, one.name), h("td", { class: "num" }, count(one.entries)), h("td", { class: "num" }, count(one.capacity))),
    ),
  );
  return h("div", { class: "columns" }, programs.root, maps.root);
}
