// The views of the page. The address says which is shown: #view=topics, or #q=QUERY for a search.

import { element } from "./elements.js";

const VIEWS = ["search", "topics", "judges", "adapters"];
const opened = {}; // view -> what happens when it is shown

export function onShow(view, action) {
  opened[view] = action;
}

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
  const query = element("query").value;
  const hash = `#${new URLSearchParams(view === "search" && query ? { q: query } : { view })}`;
  if (step && location.hash !== hash) history.pushState(null, "", hash);
  if (opened[view]) opened[view]();
}

export function viewOf(hash) {
  const view = new URLSearchParams(hash.slice(1)).get("view");
  return VIEWS.includes(view) ? view : "search";
}
