// The choice of a system: a pipeline, what stands in its slots, and the weights of its fusion.

import { announce, element, made, option } from "./elements.js";
import { pipelineOf, state } from "./state.js";

const STEPS = 10; // weights are set in tenths

export class SystemChoice {
  // onChange is called when another system was chosen, onWeights when only the weights were.
  constructor(onChange, onWeights) {
    this.root = element("system").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.root.querySelector(selector);
    this.onWeights = onWeights;
    this.onChange = onChange;
    this.sliders = [];
    this.chosen = null; // weights other than the pipeline's, as they were set: sliders have tenths only
    for (const { id } of state.pipelines) this.part(".pipeline").append(option(id, id));
    this.part(".pipeline").addEventListener("change", () => {
      this.show();
      onChange();
    });
    this.show();
  }

  get pipeline() {
    return pipelineOf(this.part(".pipeline").value);
  }

  get slots() {
    const chosen = [...this.root.querySelectorAll(".slots select")].map((select) => [select.dataset.slot, select.value]);
    return Object.fromEntries(chosen.filter(([, choice]) => choice !== "on"));
  }

  get shares() {
    const values = this.sliders.map((slider) => Number(slider.value));
    if (values.length === 1) return [1 - values[0] / STEPS, values[0] / STEPS].map((share) => Number(share.toFixed(2)));
    const sum = values.reduce((one, other) => one + other, 0);
    return values.map((value) => (sum ? Number((value / sum).toFixed(4)) : 0));
  }

  get weights() {
    return this.chosen || [];
  }

  get request() {
    return { pipeline: this.pipeline.id, slots: this.slots, weights: this.weights };
  }

  set({ pipeline, slots, weights }) {
    this.part(".pipeline").value = pipeline;
    this.show();
    for (const [name, choice] of Object.entries(slots || {})) {
      const slot = this.pipeline.slots.find((each) => each.name === name);
      if (!slot || !slot.choices.includes(choice)) throw new Error(`On this server ${name} in ${pipeline} cannot be ${choice}.`);
    }
    for (const select of this.root.querySelectorAll(".slots select")) select.value = (slots || {})[select.dataset.slot] || "on";
    if (!weights || !weights.length) return;
    const fits = weights.length === (this.pipeline.fusion || { parts: [] }).parts.length;
    if (!fits || !(sumOf(weights) > 0)) throw new Error(`The weights in the address do not fit pipeline ${pipeline}.`);
    this.setWeights(weights);
  }

  setWeights(weights) {
    const tenths = inTenths(weights);
    if (this.sliders.length === 1) this.sliders[0].value = String(tenths[1]);
    else this.sliders.forEach((slider, place) => { slider.value = String(tenths[place]); });
    this.chosen = weights;
    this.showShares();
  }

  show() {
    this.showSlots();
    this.showWeights();
  }

  showSlots() {
    const box = this.part(".slots");
    box.replaceChildren(box.firstElementChild);
    const slots = this.pipeline.slots.filter(({ choices }) => choices.length > 1);
    for (const { name, adapter, choices } of slots) {
      const select = made("select", "", ...choices.map((choice) => option(choice === "on" && adapter ? `on (${adapter})` : choice, choice)));
      select.dataset.slot = name;
      select.addEventListener("change", this.onChange);
      box.append(made("label", "", `${name} `, select));
    }
    box.hidden = !slots.length;
  }

  showWeights() {
    const { fusion } = this.pipeline;
    const box = this.part(".weights");
    this.chosen = null;
    this.sliders = [];
    box.hidden = !fusion || fusion.parts.length < 2;
    this.part(".sliders").replaceChildren();
    if (box.hidden) return;
    const tenths = inTenths(fusion.weights);
    const two = fusion.parts.length === 2;
    for (const [place, name] of two ? [[1, `${fusion.parts[0]} – ${fusion.parts[1]}`]] : fusion.parts.entries()) {
      const slider = made("input", "slider");
      slider.type = "range";
      slider.min = "0";
      slider.max = String(STEPS);
      slider.value = String(tenths[place]);
      slider.addEventListener("input", () => this.moved());
      this.sliders.push(slider);
      this.part(".sliders").append(made("label", "", made("span", "", `${name} `), slider));
    }
    this.showShares();
  }

  moved() {
    if (!this.shares.some((share) => share > 0)) {
      this.part(".shares").textContent = "One weight must be above 0.";
      announce("One weight must be above 0.");
      return;
    }
    this.chosen = this.shares;
    this.showShares();
    this.onWeights();
  }

  showShares() {
    const { fusion } = this.pipeline;
    const weights = this.chosen || fusion.weights;
    const text = weightsText(fusion.parts, weights.map((weight) => weight / sumOf(weights)));
    this.part(".shares").textContent = text;
    for (const slider of this.sliders) slider.setAttribute("aria-valuetext", text);
  }
}

const sumOf = (weights) => weights.reduce((one, other) => one + other, 0);
const inTenths = (weights) => weights.map((weight) => Math.round((STEPS * weight) / sumOf(weights)));

const weightsText = (parts, weights) => parts.map((part, place) => `${part} ${Number(weights[place].toFixed(2))}`).join(", ");
