// The service: requests with the token or the notebook server's login, and events read from a stream.

const door = document.documentElement.dataset.door;
const KEPT = "spaceport-token";
let token = "";

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.message || `the service answered ${status}`);
    this.status = status;
    this.problem = problem;
  }

  get words() {
    const { got, expected, hint } = this.problem;
    const more = [got && `got ${got}`, expected && `expected ${expected}`, hint && `try: ${hint}`].filter(Boolean);
    return [`${this.message[0].toUpperCase()}${this.message.slice(1)}.`, ...more].join("\n");
  }
}

// The token comes in the address's fragment, which is sent to nobody, and stays in this tab.
export function findToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) history.replaceState(null, "", location.pathname + location.search);
  // A notebook server takes its token in the query; it has set its cookie by now.
  if (door === "jupyter" && location.search) history.replaceState(null, "", location.pathname + location.hash);
  try {
    token = given || sessionStorage.getItem(KEPT) || "";
  } catch {
    token = given || "";
  }
  if (given) keep(given);
  return door === "jupyter" || token !== "";
}

export function keep(value) {
  token = value;
  try {
    sessionStorage.setItem(KEPT, value);
  } catch {
    // Without storage the token is asked for again when the page is loaded anew.
  }
}

export async function ask(path, { method = "GET", body, headers = {}, signal } = {}) {
  const all = { ...headers };
  if (door === "token") all.Authorization = `Bearer ${token}`;
  if (method !== "GET" && door === "jupyter") all["X-XSRFToken"] = cookie("_xsrf");
  if (body !== undefined) all["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method, headers: all, signal, cache: "no-store", redirect: "error",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (answer.ok) return answer;
  throw new Refused(answer.status, await answer.json().catch(() => ({})));
}

export const json = async (path, options) => (await ask(path, options)).json();

// Links to reports carry no token: the browser gets a cookie that opens reports and nothing else.
export async function letLinksOpen() {
  if (door === "token") await ask("session", { method: "POST" });
}

// Calls onEvent(kind, data) for each event; goes on where it broke off; returns when the job has ended.
export async function follow(name, onEvent, onLost, signal) {
  let last = "";
  let wait = 1000;
  while (!signal.aborted) {
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await ask(`jobs/${name}/events`, { headers, signal });
      if (answer.status === 204) return;
      for await (const event of read(answer.body)) {
        wait = 1000;
        if (event.id) last = event.id;
        onEvent(event.kind, event.data);
        if (event.kind === "end") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && error.status < 500 && error.status !== 429) throw error;
    }
    onLost();
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, 15000);
  }
}

async function* read(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const event = {};
        for (const line of part.split("\n")) {
          const colon = line.indexOf(": ");
          if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 2);
        }
        if (event.event && event.data) yield { kind: event.event, id: event.id, data: JSON.parse(event.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function cookie(name) {
  const found = document.cookie.split("; ").find((part) => part.startsWith(`${name}=`));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}
