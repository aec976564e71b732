// One system on the screen: what it is, the stages of its search as they finish, and its hits.

import { shownAnswer } from "./answer.js";
import { announce, button, element, made, milliseconds, moved, rounded, written } from "./elements.js";
import { explain } from "./explanation.js";
import { attempt, events, send } from "./requests.js";
import { state } from "./state.js";
import { SystemChoice } from "./system.js";
import { shownStage } from "./trace.js";

const TOP = 10;

export class Side {
  // `page` holds what concerns all systems: `searchAgain`, `showResults`, `keepAddress` and `rate`.
  constructor(name, page) {
    this.name = name;
    this.page = page;
    this.result = null;
    this.stages = [];
    this.expanded = new Set(); // documents whose whole text is shown
    this.aborting = null; // the search that is under way, and the explanation
    this.explaining = null;
    this.explained = null; // the hit at which an explanation is open
    this.root = element("side").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.root.querySelector(selector);
    this.explanation = this.part(".explanation"); // it moves, and is out of the page while hits are shown anew
    this.root.setAttribute("aria-label", `System ${name}`);
    this.system = new SystemChoice(page.searchAgain, () => this.weightsMoved());
    this.part(".settings").append(this.system.root);
    this.part(".why").addEventListener("submit", (event) => {
      event.preventDefault();
      explain(this, this.part(".missing").value.trim());
    });
  }

  set(request) {
    this.system.set(request);
  }

  get documents() {
    return this.result ? this.result.hits.map(({ document }) => document) : [];
  }

  // The documents, best first, and whether there are more than these.
  get ranking() {
    return { documents: this.documents, more: Boolean(this.result) && this.result.total > this.result.hits.length };
  }

  // Give up what was asked for: its answer would be one to an earlier search.
  stop() {
    clearTimeout(this.moved);
    if (this.aborting) this.aborting.abort();
    if (this.explaining) this.explaining.abort();
  }

  // The current search with the new weights, as soon as the slider rests.
  weightsMoved() {
    clearTimeout(this.moved);
    if (this.query) this.moved = setTimeout(() => attempt(async () => {
      this.page.keepAddress(this.query, this.fields);
      await this.search(this.query, this.fields);
      this.page.showResults();
      announce(`System ${this.name}: ${this.part(".summary").textContent}`);
    }), 120);
  }

  async search(query, fields) {
    this.stop();
    const { signal } = this.aborting = new AbortController();
    this.result = null;
    this.stages = [];
    this.expanded.clear();
    this.part(".stages").replaceChildren();
    this.part(".hits").replaceChildren();
    this.part(".output").replaceChildren();
    this.explanation.hidden = true;
    this.explained = null;
    this.part(".actions").hidden = true;
    this.part(".summary").textContent = "Searching …";
    const body = { ...this.system.request, query, fields, top: TOP, trace: true, stream: true, record: false };
    this.query = query;
    this.fields = fields;
    this.searched = this.system.request; // the controls may say another system by now
    try {
      const response = await send("POST", "/v1/search", body, signal);
      for await (const { name, data } of events(response)) {
        signal.throwIfAborted(); // what had arrived before
        if (name === "stage") this.showStage(data);
        else this.result = data;
      }
    } catch (error) {
      if (error.name !== "AbortError") this.part(".summary").textContent = "Search failed.";
      throw error;
    }
    this.shownAt = performance.now();
    this.showOutput();
    this.part(".actions").hidden = false;
  }

  showStage(stage) {
    this.stages.push(stage);
    this.part(".stages").append(made("li", "", shownStage(stage)));
    // The first hits are on the screen before later stages have finished.
    const { hits } = stage.output;
    if (hits && !this.result) this.showHits(hits.map((hit) => ({ ...hit, title: hit.title || hit.document, text: null })));
  }

  showOutput() {
    const { output, evidence } = this.result;
    const box = this.part(".output");
    if (this.result.query !== this.query) box.append(made("p", "", "Searched with: ", made("bdi", "", this.result.query)));
    const { answer } = output;
    const text = answer && typeof answer === "object" ? answer.text : answer;
    if (typeof text === "string") box.append(shownAnswer(text, evidence));
    this.showSummary();
  }

  showSummary() {
    const { hits, total, milliseconds: time, measured } = this.result;
    const judged = measured ? ` · ${measured.measure} ${rounded(measured.value)} (${measured.judged} of ${measured.of} judged)` : "";
    this.part(".summary").textContent = `${hits.length} of ${total} hits in ${milliseconds(time)}${judged}`;
  }

  // The button that has the focus keeps it when hits are shown anew, after a grade for example.
  showHits(hits, other = null) {
    const list = this.part(".hits");
    const focused = [...list.querySelectorAll("button")].find((each) => each === document.activeElement);
    const hit = [...list.children].find((each) => each.querySelector(".asked")); // somebody writes a name for a grade
    const asked = hit && hit.querySelector(".asked");
    const asking = asked && [...asked.querySelectorAll("input")].find((each) => each === document.activeElement);
    list.replaceChildren(...hits.map((hit) => this.shownHit(hit, other)));
    const place = hit && [...list.children].find(({ dataset }) => dataset.document === hit.dataset.document);
    if (place) place.querySelector(".buttons").append(asked);
    if (place && asking) asking.focus();
    const same = focused && [...list.querySelectorAll("button")].find((each) => each.getAttribute("aria-label") === focused.getAttribute("aria-label"));
    if (same) same.focus();
    if (!hits.length) list.append(made("li", "hit", "No hits."));
    this.placeExplanation();
  }

  // An explanation stands at its hit, and that of a document that is missing, below all hits.
  placeExplanation() {
    const hit = [...this.part(".hits").children].find(({ dataset }) => dataset.document && dataset.document === this.explained);
    (hit || this.root).append(this.explanation);
  }

  // What the judge of the pipeline wrote about a document; undefined without a judge.
  judgment(documentId) {
    const { grades } = this.result ? this.result.output : {};
    return Array.isArray(grades) ? grades.find(({ id }) => id === documentId) : undefined;
  }

  shownHit(hit, other) {
    const meta = made("p", "meta", made("span", "rank", `${hit.rank}.`), move(hit.rank, hit.document, other),
      made("code", "", hit.document), made("span", "score", rounded(hit.score)));
    const judged = this.judgment(hit.document);
    if (judged) meta.append(made("span", "judged", judgmentText(judged)));
    const title = written("h3", "", hit.title || "");
    title.hidden = !hit.title;
    const text = written("p", "text", hit.text || "");
    text.hidden = !hit.text;
    const buttons = made("div", "buttons");
    if (hit.text && hit.text.length > 280) buttons.append(this.expander(text, hit));
    if (this.result) buttons.append(button("Explain this rank", () => explain(this, hit.document, true), `Explain this rank: ${hit.document}`));
    if (this.result && this.result.measured && state.topics.collects_grades) buttons.append(this.gradeButtons(hit, buttons));
    const reason = written("p", "note", judged && judged.reason ? `The judge's reason: ${judged.reason}` : "");
    reason.hidden = !reason.textContent;
    const node = made("li", "hit", meta, title, text, reason, buttons);
    node.dataset.document = hit.document;
    return node;
  }

  expander(text, hit) {
    const expand = button("", () => {
      if (!this.expanded.delete(hit.document)) this.expanded.add(hit.document);
      show();
    });
    const show = () => {
      const whole = this.expanded.has(hit.document);
      text.className = whole ? "text" : "text short";
      expand.textContent = whole ? "Show less" : "Show all";
      expand.setAttribute("aria-expanded", String(whole));
    };
    show();
    expand.setAttribute("aria-label", `Text of ${hit.document}: show all or less`);
    return expand;
  }

  gradeButtons(hit, place) {
    const group = made("span", "grades", "Grade ");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `Grade of ${hit.document}`);
    for (const grade of state.topics.scale) {
      const choice = button(String(grade), () => attempt(() => this.page.rate(this, hit, grade, place)), `Grade ${grade} for ${hit.document}`);
      choice.setAttribute("aria-pressed", String(hit.grade === grade));
      group.append(choice);
    }
    return group;
  }
}

// An encoder in a judge's place gives no grade.
function judgmentText({ grade, relevance }) {
  const probability = relevance === null || relevance === undefined ? "" : `relevance ${rounded(relevance, 2)}`;
  return grade === undefined ? `judge: ${probability}` : `judge: grade ${grade}${probability && `, ${probability}`}`;
}

// How a document's rank differs from its rank in another ranking, of which only the top may be known.
function move(rank, documentId, other) {
  if (!other) return null;
  const before = other.documents.indexOf(documentId) + 1;
  if (!before) return made("span", "gone", other.more ? `not in the other's top ${other.documents.length}` : "only here");
  return moved(rank, before);
}
