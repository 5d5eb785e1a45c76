// A held-out view: photograph, render, error map, and a slider through training time.

function render({ model, el }) {
  el.classList.add("spaceport-frames");
  const row = document.createElement("div");
  row.className = "spaceport-pictures";
  const shown = {}; // a photograph that is there already is not decoded again
  const figures = ["photo", "render", "error"].map((name) => {
    const figure = document.createElement("figure");
    const image = document.createElement("img");
    const caption = document.createElement("figcaption");
    figure.append(image, caption);
    row.appendChild(figure);
    return { name, image, caption };
  });
  const bar = document.createElement("div");
  bar.className = "spaceport-slider";
  const slider = document.createElement("input");
  slider.type = "range";
  slider.min = "0";
  slider.setAttribute("aria-label", "Step at which the held-out view is shown");
  const label = document.createElement("span");
  const latest = document.createElement("button");
  latest.textContent = "latest";
  latest.className = "spaceport-automatic";
  bar.append(slider, label, latest);
  const say = document.createElement("div");
  say.className = "spaceport-say";
  el.append(row, bar, say);

  const show = ({ name, image, caption }, which) => {
    const bytes = model.get(name);
    const there = bytes && bytes.byteLength;
    image.parentElement.hidden = !there;
    if (!there) return;
    if (shown[name] !== bytes) {
      shown[name] = bytes;
      const address = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
      image.onload = () => URL.revokeObjectURL(address);
      image.src = address;
    }
    const words = model.get("captions")[which] || "";
    image.alt = words;
    caption.textContent = words;
  };
  const changed = () => {
    const steps = model.get("steps");
    const wanted = model.get("wanted");
    bar.hidden = steps.length < 2;
    say.textContent = model.get("say");
    say.hidden = !say.textContent;
    slider.max = String(Math.max(0, steps.length - 1));
    const index = wanted < 0 ? steps.length - 1 : steps.indexOf(wanted);
    if (document.activeElement !== slider || wanted < 0) slider.value = String(Math.max(0, index));
    const step = steps[Number(slider.value)];
    label.textContent = step === undefined ? "" : `step ${step.toLocaleString("en")}`;
    slider.setAttribute("aria-valuetext", label.textContent);
    latest.disabled = wanted < 0;
  };
  const pictures = () => figures.forEach(show);
  const choose = (value) => {
    model.set("wanted", value);
    model.save_changes();
    changed();
  };
  slider.addEventListener("input", () => {
    const steps = model.get("steps");
    const index = Number(slider.value);
    choose(index === steps.length - 1 ? -1 : steps[index]);
  });
  slider.addEventListener("keydown", (event) => event.stopPropagation());
  latest.addEventListener("click", () => choose(-1));
  model.on("change:steps change:wanted change:say", onTheBeat(changed));
  model.on("change:photo change:render change:error change:captions", onTheBeat(pictures));
  changed();
  pictures();
}

export default { render };
