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
  return new Date(seconds * 1000).toLocaleTimeString(undefined, { hour12: false });
}

/** Distances of grid lines: 1, 2 and 5 of every decade, or powers of two. */
function distances(base: number): number[] {
  const [steps, from, to] = base === 2 ? [[1], 0, 50] : [[1, 2, 5], -9, 12];
  return Array.from({ length: to - from }, (_, index) => base ** (from + index)).flatMap((power) => steps.map((step) => step * power));
}

/** A chart over time. `format` writes a value with its unit, `base` is what its unit counts in. */
export function chart(title: string, lines: Line[], format: (value: number) => string, base = 10): Chart {
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
      { ...axis, size: 30, space: 80, values: (_self, splits) => splits.map(hour) },
      { ...axis, size: 64, incrs: distances(base), values: (_self, splits) => splits.map(format) },
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
