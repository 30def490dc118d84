// What the bar asks for: an expression of the one grammar, and what is chosen beside it. The agent puts them together.

export interface Filter {
  text: string;
  /** This severity or worse; empty: all. */
  severity: string;
  /** Glob over routes of requests; empty: all, and what is no request. */
  route: string;
}

export const EVERYTHING: Filter = { text: "", severity: "", route: "" };

/** As the agent's HTTP and stream take it. */
export function parameters(filter: Filter): Record<string, string> {
  const { text, severity, route } = filter;
  return given({ filter: text, severity, route });
}

/** As it stands in the page's own address. */
export function inAddress(filter: Filter): string {
  const { text, severity, route } = filter;
  return new URLSearchParams(given({ f: text, severity, route })).toString();
}

export function ofAddress(query: string): Filter {
  const given = new URLSearchParams(query);
  return { text: given.get("f") ?? "", severity: given.get("severity") ?? "", route: given.get("route") ?? "" };
}

/** The same filter, and one more term. */
export function narrowed(filter: Filter, term: string): Filter {
  return { ...filter, text: filter.text === "" ? term : `${filter.text},${term}` };
}

export function isEmpty(filter: Filter): boolean {
  return inAddress(filter) === "";
}

function given(all: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== ""));
}
