// What a page is, and what it may use.

import type { Filter } from "./filter";
import type { Store } from "./store";

export interface Context {
  store: Store;
  /** What the bar asks for. */
  filter: Filter;
  /** Whether the reader holds the page still. */
  paused(): boolean;
  /** What follows the page's name in the address. */
  argument: string;
}

export interface Page {
  root: HTMLElement;
  /** Draws what is there now; called four times a second. */
  draw(): void;
  destroy?(): void;
}

export type MakePage = (context: Context) => Page;
