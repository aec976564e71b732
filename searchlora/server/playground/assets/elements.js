// Building of elements. Texts of documents, models and requests are only ever inserted as text: `textContent` and
// `append`, never as HTML.

export const element = (id) => document.getElementById(id);

export function made(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== "" && child !== null && child !== undefined));
  return node;
}

export function button(text, action, label) {
  const node = made("button", "", text);
  node.type = "button";
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", action);
  return node;
}

// A text of a user, in its own direction.
export function written(tag, className, text) {
  const node = made(tag, className, text);
  node.dir = "auto";
  return node;
}

export function option(text, value) {
  const node = made("option", "", text);
  node.value = value;
  return node;
}

export function details(className, summary, ...children) {
  return made("details", className, made("summary", "", summary), ...children);
}

// A text that may be long: it scrolls, by keyboard, too.
export function block(text) {
  const node = made("pre", "", text);
  node.tabIndex = 0;
  return node;
}

export function table(header, rows, caption = "") {
  const cell = (name) => {
    const head = made("th", "", name);
    head.scope = "col";
    return head;
  };
  const head = made("tr", "", ...header.map(cell));
  const body = rows.map((row) => made("tr", "", ...row.map((each) => made("td", "", each === null ? "–" : each))));
  const title = caption ? made("caption", "visually-hidden", caption) : null;
  const scroll = made("div", "scroll", made("table", "", title, made("thead", "", head), made("tbody", "", ...body)));
  scroll.tabIndex = 0; // so that a wide table can be scrolled by keyboard
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", caption || header.join(", "));
  return scroll;
}

export function announce(text) {
  element("status").textContent = text;
}

export const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 1));
export const rounded = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
export const signed = (value, digits = 3) => (value === null || value === undefined ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(digits)}`);
export const counted = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;
export const milliseconds = (value) => (value === null ? "–" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`);

// A figure with its interval.
export function figure({ value, low, high }, form = rounded) {
  return low === null || low === undefined ? form(value) : `${form(value)} (${form(low)} to ${form(high)})`;
}

// How far a rank is from an earlier one.
export function moved(rank, before) {
  if (before === rank) return made("span", "", "same rank");
  const by = Math.abs(before - rank);
  const up = before > rank;
  const arrow = made("span", "", up ? "▲ " : "▼ ");
  arrow.setAttribute("aria-hidden", "true");
  return made("span", up ? "up" : "down", arrow, made("span", "visually-hidden", up ? "up " : "down "), String(by));
}
