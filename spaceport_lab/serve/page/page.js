// The start page: a form, the job that is looked at, all jobs.

import { $, ended, facts, logLine, make, percent, pill, row, stageItems, words } from "./jobs.js";
import { Refused, ask, findToken, follow, json, keep, letLinksOpen } from "./service.js";

const POLL_MS = 3000;
const SESSION_MS = 3600_000;
const PLACES = {
  full: "a scene such as sample, or s3://bucket/flight",
  "3dgs": "a scene with cameras, or a COLMAP folder",
  compression: "a PLY, or a scene with a splat",
};
const FILTERS = { all: [], waiting: ["queued"], running: ["running"], done: ["succeeded"], failed: ["failed", "cancelled"] };

let filter = "all";
let chosen = "";
let following = null;
let jobs = [];
let counts = {};
let drawn = "";
let key = "";
let opened = false;
let latest = null; // progress event of the job that is looked at
let shown = null;
let started = ""; // just now, and gets the focus when it appears

async function open() {
  let about;
  try {
    about = await json("about");
    await letLinksOpen();
  } catch (error) {
    if (!(error instanceof Refused)) return lost(open);
    if (error.status === 401) return showLogin(error);
    $("link").textContent = error.message;
    $("link").className = "status lost";
    return;
  }
  $("login").hidden = true;
  if (opened) return refresh();
  opened = true;
  for (const id of ["start", "jobs"]) $(id).hidden = false;
  fill(about);
  setInterval(() => letLinksOpen().catch(() => {}), SESSION_MS);
  choose();
  await refresh();
  setInterval(() => document.visibilityState === "visible" && refresh(), POLL_MS);
}

function showLogin(error) {
  $("link").textContent = "locked";
  $("link").className = "status";
  $("login").hidden = false;
  $("login-problem").textContent = $("token").value ? error.words : "";
  $("token").focus();
}

function lost(again) {
  $("link").textContent = "no connection";
  $("link").className = "status lost";
  setTimeout(again, 2000);
}

function connected() {
  $("link").textContent = "connected";
  $("link").className = "status succeeded";
}

function fill(about) {
  $("version").textContent = ` ${about.version}`;
  $("sources").replaceChildren(...[...about.scenes, ...about.s3Prefixes].map((value) => make("option", { value })));
  const what = make("p", { class: "preset-what", id: "preset-what" });
  const chips = Object.entries(about.presets).map(([name, purpose]) => {
    const box = make("input", { type: "checkbox", name: "presets", value: name, "aria-describedby": "preset-what" });
    const chip = make("label", { class: "preset", title: purpose }, box, name);
    box.addEventListener("change", () => tell());
    box.addEventListener("focus", () => (what.textContent = `${purpose}.`));
    chip.addEventListener("mouseenter", () => (what.textContent = `${purpose}.`));
    chip.addEventListener("mouseleave", () => tell());
    return chip;
  });
  const tell = () => {
    const ticked = [...document.querySelectorAll("[name=presets]:checked")].map((box) => box.value);
    const purposes = ticked.map((name) => `${about.presets[name]}.`);
    what.textContent = purposes.join(" ") || "No preset: every parameter at its default.";
  };
  tell();
  $("presets").append(...chips, what);
  $("output-field").hidden = !about.outputPrefixes.length;
  $("output-hint").textContent = `below ${about.outputPrefixes.join(", ")}`;
  $("webhook-field").hidden = !about.webhookHosts.length;
  $("webhook-hint").textContent = `at ${about.webhookHosts.join(", ")}`;
}

// ---------------------------------------------------------------- the form

function request(form) {
  const values = new FormData(form);
  const text = (name) => String(values.get(name) || "").trim();
  const source = text("source");
  const body = {
    [source.startsWith("s3://") ? "s3Url" : "source"]: source,
    pipelineStep: text("pipelineStep"),
    presets: values.getAll("presets"),
    overrides: text("overrides").split("\n").map((line) => line.trim()).filter(Boolean),
    priority: Number(text("priority") || 0),
  };
  for (const name of ["email", "name", "outputUrl", "webhook"]) if (text(name)) body[name] = text(name);
  return body;
}

async function start(event) {
  event.preventDefault();
  const button = $("start-button");
  button.disabled = true;
  $("start-problem").textContent = "";
  key ||= newKey();
  try {
    const headers = { "Idempotency-Key": key };
    const job = await json("start-job", { method: "POST", headers, body: request(event.target) });
    key = "";
    event.target.elements.name.value = "";
    started = job.name;
    location.hash = job.name;
    await refresh();
  } catch (error) {
    const text = error instanceof Refused ? error.words : "The service does not answer. Start again: it makes no second job.";
    $("start-problem").textContent = text;
    if (error instanceof Refused) key = "";
  } finally {
    button.disabled = false;
  }
}

// A key of its own for what stands in the form: pressing twice starts one job.
function newKey() {
  return `page-${[...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("")}`;
}

// ---------------------------------------------------------------- all jobs

async function refresh() {
  try {
    const states = FILTERS[filter].map((state) => `state=${state}`).join("&");
    ({ jobs, counts } = await json(`jobs?limit=200&${states}`));
    connected();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return showLogin(error);
    $("link").textContent = "no connection";
    $("link").className = "status lost";
    return;
  }
  showJobs();
}

function showJobs() {
  // Anew only when there is something new: what is selected or read out stays.
  const now = JSON.stringify([jobs, counts, chosen, filter, Math.floor(Date.now() / 30000)]);
  if (now === drawn) return;
  drawn = now;
  const at = document.activeElement?.closest?.("#rows a")?.hash;
  $("rows").replaceChildren(...jobs.map((job) => row(job, job.name === chosen)));
  if (at) document.querySelector(`#rows a[href="${at}"]`)?.focus();
  $("empty").hidden = jobs.length > 0;
  $("empty").textContent = filter === "all" ? "No jobs yet." : "None of these.";
  for (const button of $("filters").children) {
    const states = FILTERS[button.dataset.filter];
    const all = ["queued", "running", "succeeded", "failed", "cancelled"];
    const n = (states.length ? states : all).reduce((sum, state) => sum + (counts[state] || 0), 0);
    button.textContent = `${button.dataset.filter} ${n}`;
    button.setAttribute("aria-pressed", String(button.dataset.filter === filter));
  }
}

// ---------------------------------------------------------------- one job

function choose() {
  const name = decodeURIComponent(location.hash.slice(1));
  if (name === chosen) return;
  chosen = name;
  following?.abort();
  $("job").hidden = true;
  $("job-log").replaceChildren();
  latest = shown = null;
  showJobs();
  if (!/^[a-z0-9-]{1,41}$/.test(name)) return;
  following = new AbortController();
  const { signal } = following;
  follow(name, (kind, data) => !signal.aborted && heard(kind, data), refresh, signal).catch((error) => {
    if (signal.aborted) return;
    $("job").hidden = false;
    $("job-name").textContent = name;
    showFailure({ message: error.message, hint: "", code: "" });
  });
}

function heard(kind, data) {
  connected();
  if (kind === "job" || kind === "end") {
    showJob(data);
    const at = jobs.findIndex((job) => job.name === data.name);
    if (at >= 0) {
      const moved = jobs[at].state !== data.state;
      jobs[at] = data;
      if (moved) refresh();
      else showJobs();
    }
    return;
  }
  if (kind === "progress") {
    latest = data;
    if (shown) $("job-words").textContent = words(shown, latest);
    return;
  }
  const line = logLine(kind, data);
  if (!line) return;
  const log = $("job-log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
  log.append(line);
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function showJob(job) {
  shown = job;
  $("job").hidden = false;
  $("job-name").replaceChildren(`${job.name} `, pill(job));
  $("job-facts").textContent = facts(job);
  $("job-stages").replaceChildren(...stageItems(job));
  $("job-progress").hidden = ended(job);
  $("job-bar").value = job.progress;
  $("job-share").textContent = job.state === "running" ? percent(job.progress) : "";
  $("job-words").textContent = words(job, latest);
  $("job-failure").hidden = !job.failure;
  if (job.failure) showFailure(job.failure);
  const warnings = job.warnings.map((text) => make("li", {}, text));
  $("job-warnings").hidden = !warnings.length;
  $("job-warnings").replaceChildren(make("h3", {}, "Warnings"), make("ul", {}, ...warnings));
  showActions(job);
  if (started === job.name) {
    started = "";
    $("job-name").focus();
  }
}

function showFailure(failure) {
  const where = [failure.code, failure.stage].filter(Boolean).join(" · ");
  $("job-failure").hidden = false;
  $("job-failure").replaceChildren(
    make("p", {}, make("strong", {}, where ? `${where}: ` : ""), failure.message || "no reason was given"),
    ...(failure.hint ? [make("p", {}, `Try: ${failure.hint}`)] : []),
  );
}

function showActions(job) {
  const names = { report: "Open report", viewer: "Open viewer", "splat.sog": "Download .sog" };
  const wanted = [...Object.keys(job.files), ended(job) ? "" : `cancel ${job.cancelRequested}`].join();
  if ($("job-actions").dataset.shows === wanted + job.name) return; // what has the focus stays
  $("job-actions").dataset.shows = wanted + job.name;
  const links = Object.entries(job.files).map(([kind, href]) => {
    const how = kind === "splat.sog" ? { download: "" } : { target: "_blank", rel: "noopener" };
    return make("a", { class: "button", href, ...how }, names[kind] || kind);
  });
  const cancel = make("button", { type: "button", class: "risky", disabled: job.cancelRequested }, "Cancel");
  cancel.addEventListener("click", async () => {
    cancel.disabled = true;
    await ask(`jobs/${job.name}/cancel`, { method: "POST" }).catch((error) => showFailure({ message: error.message }));
    refresh();
  });
  $("job-actions").replaceChildren(...links, ...(ended(job) ? [] : [cancel]));
}

// ---------------------------------------------------------------- the page comes up

for (const span of document.querySelectorAll(".step .bars")) {
  for (let i = 0; i < 5; i++) span.append(make("i", { class: i >= Number(span.dataset.from) ? "on" : "" }));
}
$("filters").append(...Object.keys(FILTERS).map((name) => {
  const button = make("button", { type: "button", "data-filter": name });
  button.addEventListener("click", () => {
    filter = name;
    refresh();
  });
  return button;
}));
const form = $("start-form");
const place = () => (form.elements.source.placeholder = PLACES[form.elements.pipelineStep.value]);
form.addEventListener("change", place);
form.addEventListener("input", () => (key = ""));
form.addEventListener("submit", start);
place();
$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keep($("token").value.trim());
  open();
});
addEventListener("hashchange", choose);
if (findToken()) open();
else showLogin(new Refused(401, {}));
