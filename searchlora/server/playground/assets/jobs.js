// A background job on the server: started, watched, and cancelled on request. A reload of the page watches it again.

import { announce, button, made } from "./elements.js";
import { send } from "./requests.js";

const PAUSE = 300; // milliseconds between two looks at a job
const LONGEST_PAUSE = 5000; // of looks that fail one after another
const TRIES = 20;

export class JobBox {
  // The name tells the jobs of a tab apart. The starter returns what starts a job: it gets the focus back from Cancel.
  constructor(name, starter) {
    this.key = `job: ${name}`;
    this.starter = starter;
    this.bar = made("progress", "");
    this.bar.setAttribute("aria-label", "Progress");
    this.text = made("span", "");
    this.cancelButton = button("Cancel", () => this.cancel());
    this.root = made("p", "job", this.bar, this.text, this.cancelButton);
    this.root.hidden = true;
    this.current = null; // the job that is watched: {id, cancelled}
  }

  // The last job of this tab that is not over, {id, body}, also of an earlier load of the page; null without one.
  get kept() {
    return JSON.parse(sessionStorage.getItem(this.key) || "null");
  }

  // The result of a new job; null if it was cancelled.
  async run(path, body) {
    const before = this.cancel();
    const current = this.current = { id: null, cancelled: false };
    await before;
    const { kept } = this;
    if (kept && !current.cancelled) await stop(kept.id);
    if (current.cancelled) return null;
    return this.watch(current, async () => {
      const job = await (await send("POST", path, body)).json();
      if (!current.cancelled) sessionStorage.setItem(this.key, JSON.stringify({ id: job.id, body }));
      announce("Measurement started.");
      return job;
    });
  }

  // The result of the kept job; null if it was cancelled, or the server no longer has it.
  async resume() {
    const { id } = this.kept;
    const current = this.current = { id, cancelled: false };
    try {
      return await this.watch(current, () => this.look(current));
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }

  async cancel() {
    const { current } = this;
    if (!current) return;
    current.cancelled = true;
    this.current = null;
    this.forget();
    this.hide();
    announce("Cancelled.");
    if (current.id !== null) await stop(current.id);
  }

  async watch(current, begin) {
    this.show({ status: "waiting", step: "", done: 0, total: 0 });
    this.root.hidden = false;
    try {
      let job = await begin();
      if (current.id === null) {
        current.id = job.id;
        if (current.cancelled) await stop(job.id);
      }
      while (!current.cancelled && (job.status === "waiting" || job.status === "running")) {
        this.show(job);
        await pause(PAUSE);
        job = await this.look(current);
      }
      if (current.cancelled) return null;
      this.forget();
      if (job.status === "failed") throw new Error(job.error.message);
      return job.result; // null if it was cancelled elsewhere
    } catch (error) {
      if (error.status === 404 && !current.cancelled) this.forget();
      throw error;
    } finally {
      if (this.current === current) {
        this.current = null;
        this.hide();
      }
    }
  }

  // The job as it is now. A server that does not answer, or is too busy, is asked again for a while.
  async look(current) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await (await send("GET", `/v1/jobs/${current.id}`)).json();
      } catch (error) {
        if (current.cancelled) return {};
        if (tries === TRIES || !(error.status === 0 || error.status === 429 || error.status >= 500)) throw error;
        this.text.textContent = "The server does not respond. Trying again …";
        await pause(Math.min(PAUSE * 2 ** tries, LONGEST_PAUSE));
      }
    }
  }

  show({ status, step, done, total }) {
    if (total) {
      this.bar.max = total;
      this.bar.value = done;
    } else {
      this.bar.removeAttribute("value");
    }
    this.text.textContent = status === "waiting" ? "Waiting for other work …" : `${done} of ${total} ${step}`;
  }

  hide() {
    const hadFocus = document.activeElement === this.cancelButton;
    this.root.hidden = true;
    if (hadFocus) this.starter().focus();
  }

  forget() {
    sessionStorage.removeItem(this.key);
  }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// The job may be over, or the server gone: then nothing is to be stopped.
const stop = (id) => send("DELETE", `/v1/jobs/${id}`).catch(() => {});
