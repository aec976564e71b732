"use strict";

const at = (id) => document.getElementById(id);
const screens = ["start", "grading", "end"];

let rater = "";
let shown = null; // the pair on the screen
let progress = { done: 0, total: 0 };
let scale = [];
const drafts = new Map(); // pair -> a note begun and not yet saved
let busy = false; // an answer is awaited: a second press must not grade a pair nobody has seen
const watch = { seconds: 0, since: null };

// --- talking to the server

async function ask(method, path, body) {
  const request = { method, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, request);
  } catch {
    throw new Error("The server does not answer. Nothing was lost; is it still running?");
  }
  if (answer.ok) return answer.json();
  const { detail } = await answer.json().catch(() => ({}));
  const error = new Error(typeof detail === "string" ? detail : `The server refused this (${answer.status}).`);
  error.status = answer.status;
  throw error;
}

// Run one exchange at a time; what goes wrong is said on the page.
async function exchange(work) {
  if (busy) return;
  busy = true;
  say("");
  try {
    await work();
  } catch (error) {
    say(error.message);
  } finally {
    busy = false;
  }
}

function say(problem) {
  at("problem").textContent = problem;
  at("problem").hidden = !problem;
}

const mine = (rest) => `/api/raters/${encodeURIComponent(rater)}/${rest}`;

const onward = () => exchange(async () => show(await ask("POST", mine("next"))));

const back = () => exchange(async () => show(await ask("GET", mine(`before/${shown ? shown.id : "none"}`))));

const rate = (grade) => exchange(async () => {
  if (!shown) return;
  const given = { pair: shown.id, grade, seconds: looked(), note: at("note").value };
  const answer = await ask("POST", mine("ratings"), given);
  at("note").value = "";
  show(answer, `Saved: ${named(grade)}.`);
});

// --- what is on the screen

function show(view, said = "") {
  if (shown) drafts.set(shown.id, at("note").value);
  shown = view.pair;
  progress = view.progress;
  const { done, total } = progress;
  at("status").textContent = `${said} ${done} of ${total} graded.`.trim();
  if (!shown) {
    const waiting = total - done;
    at("total").textContent = `${rater}, you have graded ${done} ${done === 1 ? "pair" : "pairs"}; everything is saved.`
      + (waiting ? ` ${waiting} more ${waiting === 1 ? "is" : "are"} before other people now: look again later.` : "");
    at("end-undo").hidden = !done;
    screen("end");
    at("thanks").focus();
    return;
  }
  at("counted").textContent = `${done} of ${total} graded`;
  at("bar").value = done;
  at("bar").max = Math.max(total, 1);
  at("rater").textContent = rater;
  at("query").textContent = shown.query;
  at("title").textContent = shown.title;
  at("text").textContent = shown.text;
  showEarlier(view.earlier);
  at("undo").disabled = !done;
  screen("grading");
  window.scrollTo(0, 0);
  at("query").focus({ preventScroll: true });
  startWatch();
}

function showEarlier(earlier) {
  at("earlier").hidden = at("onward").hidden = !earlier;
  at("earlier").textContent = earlier ? `You said: ${named(earlier.grade)}. Another grade takes its place.` : "";
  for (const button of document.querySelectorAll("[data-grade]")) {
    if (earlier) button.setAttribute("aria-pressed", String(button.dataset.grade === String(earlier.grade)));
    else button.removeAttribute("aria-pressed");
  }
  at("note").value = drafts.get(shown.id) || (earlier ? earlier.note : "");
  openNote(Boolean(at("note").value));
}

function openNote(open) {
  at("note-field").hidden = !open;
  at("add-note").setAttribute("aria-expanded", String(open));
}

function screen(name) {
  for (const id of screens) at(id).hidden = id !== name;
}

function named(grade) {
  if (grade === null) return "cannot tell";
  const found = scale.find((entry) => entry.grade === grade);
  return found && found.name ? `${grade} ${found.name}` : String(grade);
}

// --- how long a pair was looked at; a page in the background is not looked at

function startWatch() {
  watch.seconds = 0;
  watch.since = document.hidden ? null : performance.now();
}

function looked() {
  return watch.seconds + (watch.since === null ? 0 : (performance.now() - watch.since) / 1000);
}

document.addEventListener("visibilitychange", () => {
  watch.seconds = looked();
  watch.since = document.hidden ? null : performance.now();
});

// --- the guideline: headings, lists, paragraphs, bold, italic, code; everything else is shown as it is written

const marks = { "**": "strong", "*": "em", "`": "code" };

function drawGuideline(text) {
  let list = null;
  let paragraph = null;
  const put = (tag, parent = at("guideline")) => parent.appendChild(document.createElement(tag));
  for (const line of text.split(/\r?\n/)) {
    const heading = line.match(/^#+\s+(.*)$/);
    const item = line.match(/^\s*[*+-]\s+(.*)$/);
    const goesOn = list && /^\s+\S/.test(line);
    if (heading || item || !line.trim()) paragraph = null;
    if (heading || !item && !goesOn) list = null;
    if (heading) drawWords(put("h3"), heading[1]);
    else if (item) drawWords(put("li", list ??= put("ul")), item[1]);
    else if (list) drawWords(list.lastChild, ` ${line.trim()}`);
    else if (line.trim()) drawWords(paragraph ??= put("p"), `${line.trim()} `);
  }
}

function drawWords(parent, text) {
  for (const part of text.split(/(\*\*[^*]+\*\*|\*[^*\s][^*]*\*|`[^`]+`)/)) {
    const [, mark, inside] = part.match(/^(\*\*|\*|`)(.+)\1$/) ?? [];
    if (mark) parent.appendChild(document.createElement(marks[mark])).textContent = inside;
    else parent.append(part);
  }
}

function drawGrades() {
  for (const { grade, name } of scale) {
    const button = at("grades").appendChild(document.createElement("button"));
    button.type = "button";
    button.dataset.grade = String(grade);
    button.setAttribute("aria-keyshortcuts", String(grade));
    button.setAttribute("aria-label", `Grade ${grade}${name ? `: ${name}` : ""}`);
    button.appendChild(document.createElement("b")).textContent = String(grade);
    if (name) button.appendChild(document.createElement("span")).textContent = name;
    button.addEventListener("click", () => rate(grade));
  }
}

// --- coming, going, keys

function begin(name) {
  rater = name;
  onward().then(() => {
    if (at("grading").hidden && at("end").hidden) arrive(); // refused; why is on the page
    else history.replaceState(null, "", `#${rater}`); // for a reload, and as a link of this rater's own
  });
}

function arrive() {
  screen("start");
  at("name").focus();
}

function leave() {
  history.replaceState(null, "", "/");
  drafts.clear();
  shown = null;
  at("note").value = "";
  say("");
  arrive();
}

function toggleNote() {
  const open = at("note-field").hidden;
  openNote(open);
  if (!open) return;
  at("note").focus({ preventScroll: true });
  at("note-field").scrollIntoView({ block: "nearest" });
}

const keys = {
  c: () => rate(null),
  u: back,
  n: toggleNote,
  Escape: () => { if (!at("onward").hidden) onward(); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.isComposing) return;
  if (event.target.matches("input, textarea")) {
    if (event.key === "Escape") at("query").focus();
    return;
  }
  if (!at("start").hidden) return;
  const grade = scale.find((entry) => String(entry.grade) === event.key);
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = grade ? () => rate(grade.grade) : keys[key];
  if (!action || !at("end").hidden && key !== "u") return;
  event.preventDefault();
  action();
});

window.addEventListener("hashchange", () => location.reload());
at("who").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(at("name").value.trim().toLowerCase());
});
at("cannot").dataset.grade = "null";
at("cannot").addEventListener("click", () => rate(null));
at("undo").addEventListener("click", back);
at("end-undo").addEventListener("click", back);
at("onward").addEventListener("click", onward);
at("again").addEventListener("click", onward);
at("add-note").addEventListener("click", toggleNote);
at("leave").addEventListener("click", leave);
at("end-leave").addEventListener("click", leave);

exchange(async () => {
  const task = await ask("GET", "/api/task");
  scale = task.scale;
  at("note").maxLength = task.max_note_characters;
  drawGuideline(task.guideline);
  drawGrades();
}).then(() => {
  const name = location.hash.slice(1);
  if (name) begin(name);
  else arrive();
});
