// Making elements. Text is always text: nothing here parses HTML.

type Child = Node | string | number | null | undefined | false;
type Props = Record<string, string | number | boolean | null | undefined | ((event: never) => void)>;

function fill(element: Element, props: Props, children: Child[]): void {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value as EventListener);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  fill(element, props, children);
  return element;
}

export function svg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(element, props, children);
  return element;
}

/** A section with a heading, and what belongs to it. */
export function panel(title: string, hint: string | null, ...children: Child[]): HTMLElement {
  const head = h("div", { class: "panel-head" }, h("h2", {}, title), hint && h("p", { class: "hint" }, hint));
  return h("section", { class: "panel" }, head, ...children);
}

/**
 * A table whose body is replaced on every refresh; the head stays, and with it the focus.
 * A column of numbers has a `#` before its name.
 */
export function table(columns: string[], caption: string): { root: HTMLElement; body: HTMLTableSectionElement } {
  const body = h("tbody");
  const head = h(
    "tr",
    {},
    ...columns.map((name) =>
      name.startsWith("#") ? h("th", { scope: "col", class: "num" }, name.slice(1)) : h("th", { scope: "col" }, name),
    ),
  );
  const element = h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, head), body);
  return { root: h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, element), body };
}

/** What stands where there is nothing. */
export function nothing(columns: number, text: string): HTMLElement {
  return h("tr", {}, h("td", { colspan: columns, class: "nothing" }, text));
}
