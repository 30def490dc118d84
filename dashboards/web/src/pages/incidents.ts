// Incidents: the story of a time, out of the archive.

import * as api from "../api";
import { h, panel, svg, table } from "../dom";
import { clock, day, NONE } from "../format";
import type { MakePage } from "../page";

const SPANS: [title: string, minutes: number][] = [
  ["15 minutes", 15],
  ["hour", 60],
  ["6 hours", 360],
  ["day", 1440],
];
/** Length of a slot of a series. */
const SLOT_MS = 10_000;
const WIDTH = 900;
const HEIGHT = 54;

export const incidents: MakePage = ({ filter }) => {
  const span = h("select", { "aria-label": "Since" }, ...SPANS.map(([title, minutes]) => h("option", { value: minutes }, `last ${title}`)));
  const load = h("button", { type: "submit" }, "Load");
  const told = h("p", { class: "hint", role: "status" }, "What went wrong first, whom it affected, and when it was over; the filter above holds here, too.");
  const found = h("div", { class: "stack" });
  const form = h(
    "form",
    {
      class: "choice",
      submit: (event: SubmitEvent) => {
        event.preventDefault();
        void read();
      },
    },
    span,
    load,
  );

  async function read(): Promise<void> {
    load.disabled = true;
    told.textContent = "reading …";
    found.replaceChildren();
    const until = Date.now();
    const since = until - Number(span.value) * 60_000;
    try {
      const story = await api.timeline(filter, new Date(since).toISOString(), new Date(until).toISOString());
      told.textContent = summary(story);
      found.replaceChildren(...story.incidents.map((incident) => shown(incident, story)));
    } catch (error) {
      told.textContent = error instanceof Error ? error.message : String(error);
    }
    load.disabled = false;
  }

  return { root: h("div", { class: "page" }, panel("Incidents", "out of the archive", form, told), found), draw: () => {} };
};

function summary(story: api.Story): string {
  const small = story.background.reduce((sum, episode) => sum + episode.count, 0);
  const lost = story.sources.hosts.reduce((sum, host) => sum + host.losses.length, 0);
  return [
    story.incidents.length === 0 ? "No incident." : story.incidents.length === 1 ? "One incident." : `${story.incidents.length} incidents.`,
    small === 0 ? "" : `Beside them ${small} symptoms that are too few, or too small a part of what was tried.`,
    lost === 0 ? "" : `The probe itself lost something ${lost} times: what is missing may have been in that.`,
    story.sources.damaged.length === 0 ? "" : `Not readable: ${story.sources.damaged.join("; ")}.`,
  ].join(" ");
}

const at = (time: string | null) => (time === null ? NONE : `${day(time)} ${clock(time)}`);
const whose = (of: { service: string | null; role: string; destination: string }) =>
  `${of.service ?? "?"} ${of.role === "server" ? "at" : "→"} ${of.destination}`;

function shown(incident: api.Incident, story: api.Story): HTMLElement {
  const first = incident.episodes[0];
  const causes = table(["Cause", "First", "#Symptoms", "What it says"], "Causes, in the order in which they were seen");
  causes.body.append(
    ...incident.causes.map((of) => h("tr", {}, h("td", {}, of.cause), h("td", {}, clock(of.from)), h("td", { class: "num" }, of.count), h("td", {}, h("p", {}, of.meaning)))),
  );
  const episodes = table(["From", "To", "Host", "Cause", "Whose", "#Symptoms", "#Of", "Recovered"], "What happened, in order");
  episodes.body.append(
    ...incident.episodes.map((of) =>
      h(
        "tr",
        { class: of.recovered_at === null ? "error" : "" },
        ...[clock(of.from), clock(of.to), of.host, of.cause, whose(of)].map((text) => h("td", {}, text)),
        ...[of.count, of.tried].map((count) => h("td", { class: "num" }, count)),
        h("td", {}, clock(of.recovered_at)),
      ),
    ),
  );
  const plots = story.series
    .filter((of) => incident.episodes.some((episode) => episode.host === of.host && whose(episode) === whose(of)))
    .map((of) => plot(of, incident));
  return panel(
    `${at(incident.from)} to ${clock(incident.to)}`,
    incident.recovered_at === null ? "not known to be over" : `over at ${clock(incident.recovered_at)}`,
    h("p", {}, first === undefined ? "" : `First symptom: ${first.cause}, ${whose(first)}, seen by ${first.host}.`),
    incident.losses.length > 0 && h("p", { class: "bad" }, `The probe itself lost something meanwhile, ${incident.losses.length} times.`),
    ...plots,
    causes.root,
    episodes.root,
  );
}

/** What went well and what did not, slot by slot, from a while before the incident to a while after. */
function plot(series: api.Series, incident: api.Incident): HTMLElement {
  const [from, to] = [Date.parse(incident.from) - 6 * SLOT_MS, Date.parse(incident.to) + 6 * SLOT_MS];
  const points = series.points.filter((point) => Date.parse(point.at) + SLOT_MS > from && Date.parse(point.at) < to);
  const most = Math.max(1, ...points.map((point) => point.good + point.bad));
  const x = (time: number) => ((time - from) / (to - from)) * WIDTH;
  const bars = points.flatMap((point) => {
    const left = x(Date.parse(point.at));
    const bar = (kind: string, count: number, above: number) =>
      svg("rect", { class: `slot ${kind}`, x: left, y: HEIGHT - ((above + count) / most) * HEIGHT, width: x(from + SLOT_MS), height: (count / most) * HEIGHT });
    return [bar("good", point.good, 0), bar("bad", point.bad, point.good)];
  });
  const title = `${series.host}: ${whose(series)}: ${most} at most in 10 s`;
  return h(
    "figure",
    {},
    h("figcaption", {}, title),
    svg("svg", { class: "slots", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}, well and not` }, ...bars),
  );
}
