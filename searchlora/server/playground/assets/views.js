// The views of the page. The address says which is shown: #view=adapters, or #q=QUERY and more for a search.

import { element } from "./elements.js";

const VIEWS = ["search", "adapters", "production"];
const opened = {}; // view -> what happens when it is shown
let searched = ""; // the address of the search that the search view holds

export function onShow(view, action) {
  opened[view] = action;
}

// The address of the search view from now on.
export function keepSearch(address) {
  searched = address;
  if (!element("view-search").hidden) history.replaceState(null, "", address);
}

export const isKept = (address) => address === searched;

// Show a view. It becomes a step of the browser's history, unless the address led here.
export function show(view, step = true) {
  for (const each of VIEWS) {
    element(`view-${each}`).hidden = each !== view;
    const link = element(`to-${each}`);
    if (each === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  element("search").hidden = view !== "search";
  document.title = `${view === "search" ? "" : `${element(`to-${view}`).textContent} – `}searchlora playground`;
  const hash = (view === "search" && searched) || `#${new URLSearchParams({ view })}`;
  if (location.hash !== hash) {
    if (step) history.pushState(null, "", hash);
    else if (view === "search" && searched) history.replaceState(null, "", hash);
  }
  if (opened[view]) opened[view]();
}

export function viewOf(hash) {
  const view = new URLSearchParams(hash.slice(1)).get("view");
  return VIEWS.includes(view) ? view : "search";
}
