// A line chart: spec (JSON) says what there is, data (float32) holds the columns x, y and for bars their base.

function readSeries(model) {
  const spec = model.get("spec");
  const all = floats(model.get("data"));
  let from = 0;
  return (spec.series || []).map((series) => {
    const columns = [];
    for (let k = 0; k < (series.kind === "bars" ? 3 : 2); k++) {
      columns.push(all.subarray(from, from + series.n));
      from += series.n;
    }
    return { ...series, x: columns[0], y: columns[1], base: columns[2] };
  });
}

function drawSeries(context, given, X, Y, theme) {
  const series = { ...given, color: onTheme(given.color, theme) };
  const points = Array.from(series.x, (x, i) => [X(x), Y(series.y[i])]).filter(([, y]) => isFinite(y));
  context.globalAlpha = series.alpha ?? 1;
  if (series.kind === "bars") {
    context.fillStyle = series.color;
    const width = Math.max(1.5, X(series.width) - X(0));
    series.x.forEach((x, i) => {
      const [top, bottom] = [Y(series.y[i]), Y(series.base[i])];
      context.fillRect(X(x) - width / 2, Math.min(top, bottom), width, Math.abs(bottom - top));
    });
  } else if (series.kind === "steps") {
    const corners = points.flatMap(([x, y], i) => (i ? [[x, points[i - 1][1]], [x, y]] : [[x, y]]));
    stroke(context, series.color, 2, corners);
  } else {
    stroke(context, series.color, series.thick ?? 2, points, series.dash ? [5, 4] : []);
    if (series.kind === "points") {
      context.fillStyle = series.color;
      for (const [x, y] of points) {
        context.beginPath();
        context.arc(x, y, 2.8, 0, 7);
        context.fill();
      }
    }
  }
  context.globalAlpha = 1;
}

function drawChart(context, width, height, theme, spec, series, pointer) {
  const right = spec.right ? 44 : 12;
  const box = { left: 46, right: width - right, top: 42, bottom: height - 22 };
  const [x0, x1] = spec.x;
  const X = (x) => box.left + ((x - x0) / (x1 - x0 || 1)) * (box.right - box.left);
  const scale = ([low, high]) => (y) => box.bottom - ((y - low) / (high - low || 1)) * (box.bottom - box.top);
  const Y = scale(spec.y);
  const Y2 = spec.right ? scale(spec.right) : Y;

  context.font = BOLD;
  text(context, spec.title, 4, 11, theme.ink);
  context.font = FONT;
  if (spec.say) text(context, spec.say, (box.left + box.right) / 2, (box.top + box.bottom) / 2, theme.faint, "center");
  for (const y of niceTicks(...spec.y, 4)) {
    stroke(context, theme.grid, 1, [[box.left, Y(y)], [box.right, Y(y)]]);
    text(context, shortNumber(y) + (spec.y_unit || ""), box.left - 6, Y(y), theme.faint, "right");
  }
  if (spec.right) {
    const color = spec.right_color || theme.faint;
    const [bottom, top] = [spec.right[0], spec.right_top ?? spec.right[1]];
    const most = spec.right_top ? 3 : 4;
    for (const y of niceTicks(bottom, top, most)) text(context, shortNumber(y), box.right + 6, Y2(y), color);
  }
  const room = Math.max(2, Math.floor((box.right - box.left) / 64));
  for (const x of niceTicks(x0, x1, room)) {
    const words = shortNumber(x);
    const half = context.measureText(words).width / 2; // the last one must not hang over the edge
    text(context, words, Math.min(X(x), width - half - 1), box.bottom + 12, theme.faint, "center");
  }

  context.save();
  context.beginPath();
  context.rect(box.left, box.top - 4, box.right - box.left + 5, box.bottom - box.top + 5);
  context.clip();
  for (const one of series) drawSeries(context, one, X, one.axis === "right" ? Y2 : Y, theme);
  for (const x of spec.marks || []) stroke(context, "#D55E00", 1, [[X(x), box.top], [X(x), box.bottom]], [2, 3]);
  if (spec.now != null) {
    stroke(context, theme.ink, 1.2, [[X(spec.now), box.top], [X(spec.now), box.bottom]]);
    context.fillStyle = theme.ink;
    context.beginPath();
    context.moveTo(X(spec.now) - 4, box.top - 3);
    context.lineTo(X(spec.now) + 4, box.top - 3);
    context.lineTo(X(spec.now), box.top + 4);
    context.fill();
  }
  context.restore();
  stroke(context, theme.faint, 1, [[box.left, box.bottom + 0.5], [box.right, box.bottom + 0.5]]);

  // What the colours mean; under the pointer, what they are worth there.
  let left = 4;
  let at = null;
  if (pointer !== null && pointer >= box.left && pointer <= box.right) at = x0 + ((pointer - box.left) / (box.right - box.left)) * (x1 - x0);
  if (at !== null) {
    stroke(context, theme.faint, 1, [[pointer, box.top], [pointer, box.bottom]], [1, 2]);
    const words = "step " + Math.round(at).toLocaleString("en");
    text(context, words, left, 29, theme.ink);
    left += context.measureText(words).width + 10;
  }
  for (const one of series) {
    if (!one.name) continue;
    let words = one.name;
    if (at !== null && one.n) {
      let near = 0;
      one.x.forEach((x, i) => {
        const better = one.kind === "steps" ? x <= at : Math.abs(x - at) < Math.abs(one.x[near] - at);
        if (better) near = i;
      });
      words += " " + shortNumber(one.kind === "bars" ? one.y[near] - one.base[near] : one.y[near]);
    }
    context.fillStyle = onTheme(one.color, theme);
    context.fillRect(left, 26, 10, one.kind === "bars" ? 7 : 3);
    text(context, words, left + 14, 29, theme.ink);
    left += context.measureText(words).width + 26;
  }
}

function render({ model, el }) {
  el.classList.add("spaceport-chart");
  let pointer = null;
  let series = readSeries(model);
  const { canvas, redraw, close } = makeCanvas(el, model.get("height"), (context, width, height, theme) =>
    drawChart(context, width, height, theme, model.get("spec"), series, pointer));
  canvas.setAttribute("role", "img");
  const changed = () => {
    series = readSeries(model);
    canvas.setAttribute("aria-label", model.get("spec").alt || "");
    redraw();
  };
  model.on("change:spec change:data", onTheBeat(changed));
  canvas.addEventListener("pointermove", (event) => { pointer = event.offsetX; redraw(); });
  canvas.addEventListener("pointerleave", () => { pointer = null; redraw(); });
  changed();
  return close;
}

export default { render };
