"use strict";

const element = (id) => document.getElementById(id);
const screens = ["start", "grading", "end"];

let rater = "";
let pair = null; // the pair on the screen
let progress = { done: 0, total: 0 };
let scale = [];
const drafts = new Map(); // pair id -> note that is not saved yet
let busy = false; // a request is pending: a second key press must not grade the next, unseen pair
let visit = 0; // counts the raters at this page: an answer to an earlier one is not shown to the next
const timer = { seconds: 0, since: null };

// --- requests to the server

async function send(method, path, body) {
  const request = { method, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch {
    throw new Error("The server does not respond. Saved grades are not lost. Check that it is still running.");
  }
  if (response.ok) return response.json();
  const { error } = await response.json().catch(() => ({}));
  const what = response.status >= 500 ? "failed" : "refused the request";
  throw new Error(error ? error.message : `The server ${what} (${response.status}).`);
}

// Run one task at a time and show its error on the page. The task gets a function that says whether its rater is still
// here.
async function run(task) {
  if (busy) return;
  const own = visit;
  const isHere = () => own === visit;
  busy = true;
  showProblem("");
  try {
    await task(isHere);
  } catch (error) {
    if (isHere()) showProblem(error.message);
  } finally {
    if (isHere()) busy = false;
  }
}

function showProblem(problem) {
  element("problem").textContent = problem;
  element("problem").hidden = !problem;
}

const raterPath = (rest) => `/api/raters/${encodeURIComponent(rater)}/${rest}`;

const showAnswer = (method, path) => run(async (isHere) => {
  if (!scale.length) await loadTask();
  const view = await send(method, path);
  if (isHere()) show(view);
});

const nextPair = () => showAnswer("POST", raterPath("next"));

const previousPair = () => showAnswer("GET", raterPath(`before/${pair ? pair.id : "none"}`));

const rate = (grade) => run(async (isHere) => {
  if (!pair) return;
  const rating = { pair: pair.id, grade, seconds: secondsOnScreen(), note: element("note").value };
  const view = await send("POST", raterPath("ratings"), rating);
  if (!isHere()) return;
  element("note").value = "";
  show(view, `Saved: ${gradeLabel(grade)}.`);
});

// --- rendering

function show(view, message = "") {
  if (pair) drafts.set(pair.id, element("note").value);
  pair = view.pair;
  progress = view.progress;
  const { done, total } = progress;
  element("status").textContent = `${message} ${done} of ${total} graded.`.trim();
  if (!pair) {
    const waiting = total - done;
    element("total").textContent = `${rater}, you have graded ${done} ${done === 1 ? "pair" : "pairs"}. All grades are saved.`
      + (waiting ? ` ${waiting} more ${waiting === 1 ? "is" : "are"} on other raters' screens: check again later.` : "");
    element("end-undo").hidden = !done;
    screen("end");
    element("thanks").focus();
    return;
  }
  element("counted").textContent = `${done} of ${total} graded`;
  element("bar").value = done;
  element("bar").max = Math.max(total, 1);
  element("rater").textContent = rater;
  element("query").textContent = pair.query;
  element("title").textContent = pair.title;
  element("text").textContent = pair.text;
  showEarlier(view.earlier);
  element("undo").disabled = !done;
  screen("grading");
  window.scrollTo(0, 0);
  element("query").focus({ preventScroll: true });
  startTimer();
}

function showEarlier(earlier) {
  element("earlier").hidden = element("onward").hidden = !earlier;
  element("earlier").textContent = earlier ? `Your grade: ${gradeLabel(earlier.grade)}. A new grade replaces it.` : "";
  for (const button of document.querySelectorAll("[data-grade]")) {
    if (earlier) button.setAttribute("aria-pressed", String(button.dataset.grade === String(earlier.grade)));
    else button.removeAttribute("aria-pressed");
  }
  element("note").value = drafts.get(pair.id) || (earlier ? earlier.note : "");
  openNote(Boolean(element("note").value));
}

function openNote(open) {
  element("note-field").hidden = !open;
  element("add-note").setAttribute("aria-expanded", String(open));
}

function screen(name) {
  for (const id of screens) element(id).hidden = id !== name;
}

function gradeLabel(grade) {
  if (grade === null) return "cannot tell";
  const entry = scale.find((each) => each.grade === grade);
  return entry && entry.name ? `${grade} ${entry.name}` : String(grade);
}

// --- time that a pair is on the screen; time in the background does not count

function startTimer() {
  timer.seconds = 0;
  timer.since = document.hidden ? null : performance.now();
}

function secondsOnScreen() {
  return timer.seconds + (timer.since === null ? 0 : (performance.now() - timer.since) / 1000);
}

document.addEventListener("visibilitychange", () => {
  timer.seconds = secondsOnScreen();
  timer.since = document.hidden ? null : performance.now();
});

// --- the guideline: headings, lists, paragraphs, bold, italic and code; other Markdown is shown as plain text

const marks = { "**": "strong", "*": "em", "`": "code" };

function renderGuideline(text) {
  let list = null;
  let paragraph = null;
  const add = (tag, parent = element("guideline")) => parent.appendChild(document.createElement(tag));
  for (const line of text.split(/\r?\n/)) {
    const heading = line.match(/^#+\s+(.*)$/);
    const item = line.match(/^\s*[*+-]\s+(.*)$/);
    const continuesItem = list && /^\s+\S/.test(line);
    if (heading || item || !line.trim()) paragraph = null;
    if (heading || !item && !continuesItem) list = null;
    if (heading) renderInline(add("h3"), heading[1]);
    else if (item) renderInline(add("li", list ??= add("ul")), item[1]);
    else if (list) renderInline(list.lastChild, ` ${line.trim()}`);
    else if (line.trim()) renderInline(paragraph ??= add("p"), `${line.trim()} `);
  }
}

function renderInline(parent, text) {
  for (const part of text.split(/(\*\*[^*]+\*\*|\*[^*\s][^*]*\*|`[^`]+`)/)) {
    const [, mark, content] = part.match(/^(\*\*|\*|`)(.+)\1$/) ?? [];
    if (mark) parent.appendChild(document.createElement(marks[mark])).textContent = content;
    else parent.append(part);
  }
}

function renderGradeButtons() {
  for (const { grade, name } of scale) {
    const button = element("grades").appendChild(document.createElement("button"));
    button.type = "button";
    button.dataset.grade = String(grade);
    button.setAttribute("aria-keyshortcuts", String(grade));
    button.setAttribute("aria-label", `Grade ${grade}${name ? `: ${name}` : ""}`);
    button.appendChild(document.createElement("b")).textContent = String(grade);
    if (name) button.appendChild(document.createElement("span")).textContent = name;
    button.addEventListener("click", () => rate(grade));
  }
}

// --- start, end and keyboard

// The guideline and its grades; without them no pair is shown.
async function loadTask() {
  const task = await send("GET", "/api/task");
  if (scale.length) return; // another request has brought it
  scale = task.scale;
  element("note").maxLength = task.max_note_characters;
  renderGuideline(task.guideline);
  renderGradeButtons();
}

function begin(name) {
  rater = name;
  const own = visit;
  nextPair().then(() => {
    if (own !== visit) return;
    if (element("grading").hidden && element("end").hidden) showStart(); // refused; the page shows the reason
    else history.replaceState(null, "", `#${rater}`); // reloading or bookmarking the page keeps the name
  });
}

function showStart() {
  screen("start");
  element("name").focus();
}

function leave() {
  history.replaceState(null, "", "/");
  visit += 1;
  busy = false;
  rater = "";
  drafts.clear();
  pair = null;
  element("note").value = "";
  showProblem("");
  showStart();
}

function toggleNote() {
  const open = element("note-field").hidden;
  openNote(open);
  if (!open) return;
  element("note").focus({ preventScroll: true });
  element("note-field").scrollIntoView({ block: "nearest" });
}

const keys = {
  c: () => rate(null),
  u: previousPair,
  n: toggleNote,
  Escape: () => { if (!element("onward").hidden) nextPair(); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.isComposing) return;
  if (event.target.matches("input, textarea")) {
    if (event.key === "Escape") element("query").focus();
    return;
  }
  if (!element("start").hidden) return;
  const entry = scale.find((each) => String(each.grade) === event.key);
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const action = entry ? () => rate(entry.grade) : keys[key];
  if (!action || !element("end").hidden && key !== "u") return;
  event.preventDefault();
  action();
});

window.addEventListener("hashchange", () => location.reload());
element("who").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(element("name").value.trim().toLowerCase());
});
element("cannot").dataset.grade = "null";
element("cannot").addEventListener("click", () => rate(null));
element("undo").addEventListener("click", previousPair);
element("end-undo").addEventListener("click", previousPair);
element("onward").addEventListener("click", nextPair);
element("again").addEventListener("click", nextPair);
element("add-note").addEventListener("click", toggleNote);
element("leave").addEventListener("click", leave);
element("end-leave").addEventListener("click", leave);

run(loadTask).then(() => {
  const name = location.hash.slice(1);
  if (name) begin(name);
  else showStart();
});
