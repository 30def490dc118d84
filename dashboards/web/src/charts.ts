// Charts: uPlot in the page's own colours, with one cursor over all of them.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { h } from "./dom";

export interface Line {
  label: string;
  /** Name of a colour variable of the style sheet. */
  colour: string;
  fill?: boolean;
}

export interface Chart {
  root: HTMLElement;
  set(data: (number | null)[][]): void;
  destroy(): void;
}

const HEIGHT = 180;

/** Time of day, as everywhere on these pages. */
function hour(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString(undefined, { hour12: false, hour: "2-digit", minute: "2-digit" });
}

/** A chart over time. `format` writes a value with its unit. */
export function chart(title: string, lines: Line[], format: (value: number) => string): Chart {
  const plot = h("div", { class: "plot", role: "img", "aria-label": title });
  const root = h("figure", { class: "panel chart" }, h("figcaption", {}, title), plot);
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const options: uPlot.Options = {
    width: 400,
    height: HEIGHT,
    cursor: { sync: { key: "netprobe" }, y: false },
    legend: { live: true },
    scales: { y: { range: (_self, _low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, space: 70, values: (_self, splits) => splits.map(hour) },
      { ...axis, size: 64, values: (_self, splits) => splits.map(format) },
    ],
    series: [
      { label: "at", value: "{HH}:{mm}:{ss}" },
      ...lines.map((line) => ({
        label: line.label,
        stroke: colour(line.colour),
        width: 1.5,
        points: { show: false },
        ...(line.fill === true ? { fill: `${colour(line.colour)}22` } : {}),
        value: (_self: uPlot, value: number | null) => (value === null ? "–" : format(value)),
      })),
    ],
  };
  const chart = new uPlot(options, [[], ...lines.map(() => [])] as uPlot.AlignedData, plot);
  const resized = new ResizeObserver(() => chart.setSize({ width: plot.clientWidth, height: HEIGHT }));
  resized.observe(plot);
  return {
    root,
    set: (data) => chart.setData(data as uPlot.AlignedData),
    destroy: () => {
      resized.disconnect();
      chart.destroy();
    },
  };
}
