// What the charts of the bench draw with. Put before chart.js and histogram.js, which are one module with it.

const FONT = "11px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";
const BOLD = "600 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";

// A view on bytes that came over the wire may start anywhere; Float32Array may not.
function floats(view) {
  if (!view || !view.byteLength) return new Float32Array(0);
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

function themeColors(element) {
  const style = getComputedStyle(element);
  const read = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  return {
    ink: read("--jp-ui-font-color1", "#1f2933"),
    faint: read("--jp-ui-font-color2", "#7b8794"),
    grid: read("--jp-border-color3", "#e4e7eb"),
    dark: document.body.dataset.jpThemeLight === "false",
  };
}

// The palette's blue is too close to a dark page; all others stand out on both.
function onTheme(color, theme) {
  return theme.dark && color === "#0072B2" ? "#4aa3df" : color;
}

function niceTicks(low, high, most) {
  const raw = (high - low) / Math.max(1, most);
  if (!(raw > 0) || !isFinite(raw)) return [];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push(k * step);
  return ticks;
}

// 12000 → 12k, 0.035 → 0.035, 2e-7 → 2e-7
function shortNumber(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + "k";
  if (size >= 1e3) return Math.round(value).toLocaleString("en");
  if (size > 0 && size < 1e-3) return value.toExponential(1).replace(".0e", "e");
  return String(+value.toPrecision(4));
}

// All that one update brings is drawn in one frame: it comes as an event for each widget, and without a GPU a
// page pays for every frame, not for what is in it. The widgets are modules that do not know each other, so each
// waits for the next beat of the clock they share.
const BEAT_MS = 250;

function onTheBeat(draw) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    const left = BEAT_MS - (Date.now() % BEAT_MS);
    setTimeout(() => requestAnimationFrame(() => {
      waits = false;
      draw();
    }), left);
  };
}

// A canvas as wide as its place, sharp on any screen, drawn again when size or theme change.
function makeCanvas(element, height, draw) {
  const canvas = document.createElement("canvas");
  canvas.style.cssText = `display:block;width:100%;height:${height}px`;
  element.appendChild(canvas);
  const redraw = () => {
    const width = canvas.clientWidth;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    // Drawn in memory: without a GPU a canvas would else be drawn by the emulation of one.
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.scale(ratio, ratio);
    context.font = FONT;
    draw(context, width, height, themeColors(canvas));
  };
  const size = new ResizeObserver(redraw);
  size.observe(canvas);
  const theme = new MutationObserver(() => requestAnimationFrame(redraw));
  theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name", "class"] });
  const close = () => {
    size.disconnect();
    theme.disconnect();
  };
  return { canvas, redraw, close };
}

function text(context, words, x, y, color, align = "left", baseline = "middle") {
  context.fillStyle = color;
  context.textAlign = align;
  context.textBaseline = baseline;
  context.fillText(words, x, y);
}

function stroke(context, color, width, points, dash = []) {
  context.strokeStyle = color;
  context.lineWidth = width;
  context.lineJoin = "round";
  context.setLineDash(dash);
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
  context.setLineDash([]);
}
