// A background job on the server: started, watched, and cancelled on request.

import { announce, button, made } from "./elements.js";
import { send } from "./requests.js";

const PAUSE = 300; // milliseconds between two looks at a job

export class JobBox {
  constructor() {
    this.bar = made("progress", "");
    this.bar.setAttribute("aria-label", "Progress");
    this.text = made("span", "");
    this.cancelButton = button("Cancel", () => this.cancel());
    this.root = made("p", "job", this.bar, this.text, this.cancelButton);
    this.root.hidden = true;
    this.current = null; // the job that is watched: {id, cancelled}
  }

  // The result of a job; null if it was cancelled.
  async run(path, body) {
    const before = this.cancel();
    const current = this.current = { id: null, cancelled: false };
    await before;
    if (current.cancelled) return null;
    this.show({ status: "waiting", step: "", done: 0, total: 0 });
    this.root.hidden = false;
    try {
      let job = await (await send("POST", path, body)).json();
      current.id = job.id;
      if (current.cancelled) await stop(job.id);
      while (!current.cancelled && (job.status === "waiting" || job.status === "running")) {
        this.show(job);
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
        job = await (await send("GET", `/v1/jobs/${job.id}`)).json();
      }
      if (current.cancelled) return null;
      if (job.status === "failed") throw new Error(job.error.message);
      return job.result; // null if it was cancelled elsewhere
    } finally {
      if (this.current === current) {
        this.current = null;
        this.root.hidden = true;
      }
    }
  }

  async cancel() {
    const { current } = this;
    if (!current) return;
    current.cancelled = true;
    this.current = null;
    this.root.hidden = true;
    announce("Cancelled.");
    if (current.id !== null) await stop(current.id);
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
}

// The job may be over, or the server gone: then nothing is to be stopped.
const stop = (id) => send("DELETE", `/v1/jobs/${id}`).catch(() => {});
