// Jobs as the page shows them: a row of the table, the row of stages, the log. Text only ever goes in as text.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === undefined || value === null) continue;
    if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

export const ended = (job) => ["succeeded", "failed", "cancelled"].includes(job.state);
const MARKS = { succeeded: "✓", failed: "✕", interrupted: "–" };

export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "";
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`.replace(" 0 s", "");
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

export const age = (time) => {
  const seconds = Date.now() / 1000 - time;
  return seconds < 60 ? "now" : duration(seconds).replace(/ min .*/, " min");
};
export const cost = (usd) => (usd === null ? "–" : `$${usd.toFixed(usd < 0.1 ? 3 : 2)}`);
export const percent = (share) => `${Math.floor(share * 100)} %`;

export function pill(job) {
  const word = job.state === "running" && job.cancelRequested ? "stopping" : job.state;
  return make("span", { class: `status ${job.state}` }, word);
}

function where(job) {
  const done = job.stages.filter((stage) => stage.status === "succeeded").length;
  if (job.state === "running") return `${job.stage || "starting"}, ${percent(job.progress)}`;
  return `${done} of ${job.stages.length} stages`;
}

function bars(job) {
  const segments = job.stages.map((stage) => {
    const segment = make("i", { class: stage.status });
    if (stage.status === "running") {
      const inner = make("b");
      inner.style.width = `${100 * shareOfStage(job)}%`;
      segment.append(inner);
    }
    return segment;
  });
  return make("div", { class: "bars", role: "img", "aria-label": where(job) }, ...segments);
}

// The progress is of the whole run; within its stage a job is as far as the rest says.
function shareOfStage(job) {
  const at = job.stages.findIndex((stage) => stage.status === "running");
  return at < 0 ? 0 : Math.min(1, Math.max(0.06, job.progress * job.stages.length - at));
}

export function row(job, chosen) {
  const link = make("a", { href: `#${job.name}`, "aria-current": chosen ? "true" : false }, job.name);
  const from = make("span", { class: "from" }, [job.source, ...job.presets].join(" · "));
  return make(
    "tr", { class: chosen ? "chosen" : "" },
    make("td", {}, link, from),
    make("td", {}, pill(job)),
    make("td", { class: "wide" }, bars(job), make("span", { class: "at" }, where(job))),
    make("td", { class: "n" }, cost(job.cost)),
    make("td", { class: "n" }, age(job.created)),
  );
}

export function stageItems(job) {
  return job.stages.map((stage, i) => {
    const before = i > 0 && job.stages[i - 1].status === "succeeded";
    const mark = make("span", { class: "mark", "aria-hidden": "true" }, make("span", {}, MARKS[stage.status] || String(i + 1)));
    const word = make("span", { class: "unseen" }, `: ${stage.status}`);
    const spent = stage.status === "running" ? "" : duration(stage.seconds);
    return make(
      "li", { class: `${stage.status}${before ? " reached" : ""}`, "aria-current": stage.status === "running" ? "step" : false },
      mark, make("span", { class: "name" }, stage.name, word), make("small", {}, spent),
    );
  });
}

export function facts(job) {
  const parts = [job.source];
  if (job.presets.length) parts.push(job.presets.join(" + "));
  if (job.priority) parts.push(`priority ${job.priority}`);
  if (job.attempt > 1) parts.push(`attempt ${job.attempt} of ${job.maxAttempts}`);
  if (job.started) parts.push(`${ended(job) ? "took" : "for"} ${duration((job.ended || Date.now() / 1000) - job.started)}`);
  if (job.cost !== null) parts.push(cost(job.cost));
  return parts.join(" · ");
}

// What is being done; `latest` is the newest progress event, with the stage's own numbers.
export function words(job, latest) {
  if (job.state === "queued") return job.attempt ? "waiting to be tried again" : "waiting for a worker (spaceport-lab worker)";
  if (job.state !== "running") return "";
  const parts = [[job.stage, job.message].filter(Boolean).join(": ") || "starting"];
  if (latest && latest.stage === job.stage) {
    if (latest.total > 1) parts.push(`${latest.step.toLocaleString("en")} of ${latest.total.toLocaleString("en")}`);
    for (const [name, value] of Object.entries(latest.values || {}).slice(0, 3)) parts.push(`${name} ${number(value)}`);
  }
  return parts.join(" · ");
}

const number = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(4)).toString());

// What an event says, or null for one that the rest of the page shows better.
export function eventWords(kind, data) {
  if (kind === "state") {
    if (data.cancel_requested) return ["asked to stop", ""];
    return [data.state || "", { succeeded: "good", failed: "bad" }[data.state] || ""];
  }
  if (kind === "stage") {
    const state = data.status === "running" ? "begun" : data.status || "begun";
    const more = data.seconds ? `, ${duration(data.seconds)}` : "";
    return [`${data.stage || ""} ${state}${more}`, { failed: "bad", succeeded: "good" }[state] || ""];
  }
  if (kind === "warning") return [`${data.stage ? `${data.stage}: ` : ""}${data.message || "warning"}`, "bad"];
  if (kind === "attempt") {
    const text = data.failure ? data.failure.message || "failed, and is tried again" : `attempt ${data.attempt ?? ""} begun`;
    return [data.lost_by ? `${text}: the worker before was lost` : text, data.failure || data.lost_by ? "bad" : ""];
  }
  return null;
}

export function logLine(kind, data) {
  const said = eventWords(kind, data);
  if (!said || !said[0]) return null;
  const time = new Date(data.time * 1000);
  const stamp = make("time", { datetime: time.toISOString() }, time.toLocaleTimeString([], { hour12: false }));
  return make("li", {}, stamp, make("span", { class: said[1] }, said[0]));
}
