// Gradients on a logarithmic axis, with the threshold as a line to drag by pointer or arrow keys.

const KEYS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 };
const KEY_FACTOR = 1.05;
const COMMIT_MS = 350; // a held key sends one value, not thirty

function drawHistogram(context, width, height, theme, state) {
  const { edges, counts, low, high, threshold, found, dragged } = state;
  const box = { left: 46, right: width - 12, top: 42, bottom: height - 22 };
  const [a, b] = [Math.log10(low), Math.log10(high)];
  const X = (v) => box.left + ((Math.log10(v) - a) / (b - a)) * (box.right - box.left);
  const top = Math.max(1, ...counts);
  const Y = (n) => box.bottom - (n / (1.08 * top)) * (box.bottom - box.top);
  context.font = BOLD;
  text(context, "View-space gradients", 4, 11, theme.ink);
  context.font = FONT;
  text(context, state.note, 4, 29, theme.faint);
  if (counts.length) {
    for (const y of niceTicks(0, 1.08 * top, 4)) {
      stroke(context, theme.grid, 1, [[box.left, Y(y)], [box.right, Y(y)]]);
      text(context, shortNumber(y), box.left - 6, Y(y), theme.faint, "right");
    }
  }
  for (let k = Math.ceil(a); k <= b; k++) text(context, "1e" + k, X(10 ** k), box.bottom + 12, theme.faint, "center");
  counts.forEach((n, i) => {
    if (!n) return;
    const above = threshold > 0 && edges[i] >= threshold;
    context.fillStyle = above ? "#D55E00" : onTheme("#0072B2", theme);
    context.globalAlpha = above ? 1 : 0.75;
    const [from, to] = [X(edges[i]), X(edges[i + 1])];
    context.fillRect(from, Y(n), Math.max(1, to - from - 0.6), box.bottom - Y(n));
  });
  context.globalAlpha = 1;
  stroke(context, theme.faint, 1, [[box.left, box.bottom + 0.5], [box.right, box.bottom + 0.5]]);
  if (threshold > 0) {
    const x = X(threshold);
    stroke(context, theme.ink, dragged ? 2.5 : 1.8, [[x, box.top - 4], [x, box.bottom]], found ? [5, 4] : []);
    context.fillStyle = theme.ink;
    context.beginPath();
    context.arc(x, box.top - 2, state.focused || dragged ? 7 : 5, 0, 7);
    context.fill();
    const words = shortNumber(+threshold.toPrecision(3)) + (found ? ", found" : "");
    const atRight = x > (box.left + box.right) / 2;
    text(context, words, x + (atRight ? -11 : 11), box.top + 2, theme.ink, atRight ? "right" : "left");
  }
  return { X, box, value: (x) => 10 ** (a + ((x - box.left) / (box.right - box.left)) * (b - a)) };
}

// Share of what was counted that lies above a value; the bin it falls into counts by its part.
function shareAbove(edges, counts, value) {
  let above = 0;
  let all = 0;
  counts.forEach((n, i) => {
    const part = (Math.log(edges[i + 1]) - Math.log(Math.max(value, edges[i]))) / (Math.log(edges[i + 1]) - Math.log(edges[i]));
    above += n * Math.min(1, Math.max(0, part));
    all += n;
  });
  return all ? above / all : 0;
}

function render({ model, el }) {
  el.classList.add("spaceport-chart");
  let drag = null; // the value under the pointer or between two keys, not yet sent
  let focused = false;
  let timer = 0;
  let place = null;
  const state = () => {
    const chosen = drag ?? model.get("chosen");
    const counts = Array.from(floats(model.get("counts")));
    const edges = floats(model.get("edges"));
    const found = !(chosen > 0);
    const threshold = found ? model.get("found") : chosen;
    const low = Math.min(edges.length ? edges[0] : 1e-6, threshold > 0 ? threshold / 2 : Infinity);
    const high = Math.max(edges.length ? edges[edges.length - 1] : 1e-2, threshold * 2);
    let note = model.get("note");
    if (threshold > 0 && counts.length) {
      const share = shareAbove(edges, counts, threshold);
      note = `${(100 * share).toPrecision(2)} % above the threshold; ${note}`;
    }
    return { edges, counts, low, high, threshold, found, note, dragged: drag !== null, focused };
  };
  const { canvas, redraw, close } = makeCanvas(el, model.get("height"), (context, width, height, theme) => {
    const now = state();
    place = drawHistogram(context, width, height, theme, now);
    canvas.setAttribute("aria-valuenow", String(now.threshold));
    canvas.setAttribute("aria-valuetext", (now.found ? "automatic, found " : "") + shortNumber(now.threshold) + "; " + now.note);
  });
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "slider");
  canvas.setAttribute("aria-label", "Threshold of view-space gradients above which Gaussians grow");
  canvas.setAttribute("aria-valuemin", "0");
  canvas.style.touchAction = "none";

  const button = document.createElement("button");
  button.textContent = "automatic";
  button.title = "let each check find its own threshold, so that growth follows the plan";
  button.className = "spaceport-automatic";
  el.appendChild(button);

  const send = (value) => {
    clearTimeout(timer);
    drag = null;
    model.set("chosen", value);
    model.save_changes();
    redraw();
  };
  const allowed = () => model.get("enabled");
  canvas.addEventListener("pointerdown", (event) => {
    if (!allowed() || !place) return;
    canvas.setPointerCapture(event.pointerId);
    canvas.focus();
    drag = place.value(Math.min(place.box.right, Math.max(place.box.left, event.offsetX)));
    redraw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag === null || !canvas.hasPointerCapture(event.pointerId)) return;
    drag = place.value(Math.min(place.box.right, Math.max(place.box.left, event.offsetX)));
    redraw();
  });
  canvas.addEventListener("pointerup", () => { if (drag !== null) send(+drag.toPrecision(3)); });
  canvas.addEventListener("pointercancel", () => { drag = null; redraw(); });
  canvas.addEventListener("keydown", (event) => {
    const steps = KEYS[event.key];
    if (!steps || !allowed()) return;
    event.preventDefault();
    event.stopPropagation(); // arrow keys move between cells otherwise
    const now = state();
    const from = now.threshold > 0 ? now.threshold : Math.sqrt(now.low * now.high);
    drag = from * KEY_FACTOR ** (event.shiftKey ? 5 * steps : steps);
    clearTimeout(timer);
    timer = setTimeout(() => send(+drag.toPrecision(3)), COMMIT_MS);
    redraw();
  });
  canvas.addEventListener("focus", () => { focused = true; redraw(); });
  canvas.addEventListener("blur", () => { focused = false; redraw(); });
  button.addEventListener("click", () => { if (allowed()) send(0); });
  const changed = () => {
    button.disabled = !allowed() || !(model.get("chosen") > 0);
    canvas.setAttribute("aria-disabled", String(!allowed()));
    redraw();
  };
  model.on("change", onTheBeat(changed));
  changed();
  return () => { clearTimeout(timer); close(); };
}

export default { render };
