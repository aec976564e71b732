// The start of the page, and its keyboard.

import { showAdapters } from "./adapters.js";
import { element } from "./elements.js";
import { rate } from "./grades.js";
import { showProduction } from "./production.js";
import { attempt, send, useKey } from "./requests.js";
import { compare, openAddress, searchAll, startSearch } from "./search.js";
import { state } from "./state.js";
import { isKept, onShow, show, viewOf } from "./views.js";

let isStarted = false;
let isAsked = false; // a query was submitted before the page had its pipelines

async function start() {
  ({ data: state.pipelines } = await (await send("GET", "/v1/pipelines")).json());
  state.topics = await (await send("GET", "/v1/topics")).json();
  isStarted = true;
  element("key-form").hidden = true;
  element("none").hidden = Boolean(state.pipelines.length);
  if (state.pipelines.length) startPipelines();
  onShow("adapters", showAdapters);
  onShow("production", showProduction);
  const { hash } = location;
  show(viewOf(hash), false);
  if (!state.pipelines.length) return;
  if (isAsked) searchAll();
  else openAddress(hash);
}

function startPipelines() {
  const names = [...new Set(state.pipelines.flatMap(({ fields }) => fields))];
  element("more").hidden = !names.length;
  element("field-names").textContent = names.join(", ");
  startSearch(rate);
  if (viewOf(location.hash) === "search") element("query").focus();
}

function onSubmit(form, action) {
  element(form).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

onSubmit("search", () => {
  isAsked = !state.sides.length;
  searchAll();
});
onSubmit("key-form", () => attempt(async () => {
  useKey(element("key").value.trim());
  if (isStarted) element("key-form").hidden = true; // what was refused can be tried again
  else await start();
}));
element("compare").addEventListener("click", () => { if (state.pipelines.length) compare(); });
element("rater").value = localStorage.getItem("rater") || "";
element("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view is shown
  element("results").focus();
});
window.addEventListener("hashchange", () => attempt(async () => {
  const { hash } = location;
  if (state.pipelines.length && !isKept(hash)) openAddress(hash);
  show(viewOf(hash), false);
}));
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  show("search");
  element("query").focus();
});
attempt(start);
