// The playground's face, live (an anywidget module) and in exported pages (with still.js as its model).
// `model` has get, set, save_changes, on, send; the traits are described in view.py.

const SVG = "http://www.w3.org/2000/svg";
const percent = (x) => `${Math.round(100 * x)} %`;
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const polar = (r, degrees) => {
  const a = ((degrees - 90) * Math.PI) / 180;
  return [r * Math.cos(a), r * Math.sin(a)];
};

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function draw(tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

// Bytes from the kernel, or an address, as an address; the one before it is let go.
function show(image, picture) {
  if (typeof picture === "string") {
    image.src = picture;
    return;
  }
  const old = image.dataset.own;
  image.src = image.dataset.own = URL.createObjectURL(new Blob([picture]));
  if (old) URL.revokeObjectURL(old);
}

function sector(inner, outer, middle, width) {
  const [a, b] = [middle - width / 2, middle + width / 2];
  const [x0, y0] = polar(outer, a), [x1, y1] = polar(outer, b), [x2, y2] = polar(inner, b), [x3, y3] = polar(inner, a);
  return `M${x0} ${y0}A${outer} ${outer} 0 0 1 ${x1} ${y1}L${x2} ${y2}A${inner} ${inner} 0 0 0 ${x3} ${y3}Z`;
}

function wheel(choose) {
  const R = 100, RINGS = 5;
  const svg = draw("svg", { viewBox: "-190 -124 380 248", class: "wheel", tabindex: 0, role: "slider",
    "aria-label": "wheel of emotions: arrows left and right choose the emotion, up and down the strength" });
  let petals = [], now = { emotion: null, strength: 0 };
  const byAngle = () => petals.filter((p) => p.means).sort((a, b) => a.angle - b.angle);
  function paint(list, wish) {
    [petals, now] = [list, wish];
    svg.replaceChildren();
    const width = 360 / petals.length;
    for (const petal of petals) {
      const chosen = petal.means && petal.means === wish.emotion;
      for (let ring = 0; ring < RINGS; ring++) {
        const opacity = (petal.means ? 0.22 : 0.06) + (petal.means ? 0.7 : 0.1) * (ring / (RINGS - 1));
        svg.append(draw("path", { d: sector((R * ring) / RINGS, (R * (ring + 1)) / RINGS, petal.angle, width),
          fill: petal.colour, opacity, class: "petal" }));
      }
      if (chosen) svg.append(draw("path", { d: sector(0, R, petal.angle, width), class: "chosen" }));
      const [x, y] = polar(R + 9, petal.angle);
      const anchor = Math.abs(x) < 12 ? "middle" : x > 0 ? "start" : "end";
      svg.append(draw("text", { x, y: y + (Math.abs(x) < 12 ? (y > 0 ? 9 : 0) : 4), "text-anchor": anchor,
        class: chosen ? "label on" : petal.means ? "label" : "label off" }, petal.label));
    }
    const petal = petals.find((p) => p.means && p.means === wish.emotion);
    const [x, y] = petal ? polar(R * wish.strength, petal.angle) : [0, 0];
    svg.append(draw("circle", { cx: x, cy: y, r: 9, class: "grip", fill: petal ? petal.colour : "#fff" }));
    const words = petal ? `${wish.emotion}, ${percent(wish.strength)}` : wish.emotion || "nothing";
    svg.setAttribute("aria-valuetext", words);
    svg.setAttribute("aria-valuenow", Math.round(100 * wish.strength));
  }
  function at(event) {
    const box = svg.getBoundingClientRect(), scale = 380 / box.width;
    const x = (event.clientX - box.left - box.width / 2) * scale, y = (event.clientY - box.top - box.height / 2) * scale;
    const angle = (Math.atan2(y, x) * 180) / Math.PI + 90;
    const gap = (p) => Math.abs(((p.angle - angle + 540) % 360) - 180);
    const petal = byAngle().sort((a, b) => gap(a) - gap(b))[0];
    choose({ emotion: petal.means, strength: clamp(Math.hypot(x, y) / R, 0, 1) });
  }
  svg.addEventListener("pointerdown", (event) => { svg.setPointerCapture(event.pointerId); at(event); });
  svg.addEventListener("pointermove", (event) => { if (event.buttons) at(event); });
  svg.addEventListener("keydown", (event) => {
    const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key], push = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!turn && !push) return;
    event.preventDefault();
    const list = byAngle(), i = list.findIndex((p) => p.means === now.emotion);
    const next = turn ? list[(i + turn + list.length) % list.length].means : now.emotion || list[0].means;
    choose({ emotion: next, strength: now.strength, push: push || 0 });
  });
  return { svg, paint };
}

function divider(stage) {
  const line = make("div", { class: "divider", role: "slider", tabindex: 0, "aria-label": "before and after",
    "aria-valuemin": 0, "aria-valuemax": 100 }, make("span", { class: "knob" }));
  let at = 0;
  function move(share) {
    at = clamp(share, 0, 1);
    stage.style.setProperty("--cut", `${100 * at}%`);
    stage.classList.toggle("all-after", at < 0.14);
    stage.classList.toggle("all-before", at > 0.88);
    line.setAttribute("aria-valuenow", Math.round(100 * at));
  }
  line.addEventListener("pointerdown", (event) => line.setPointerCapture(event.pointerId));
  line.addEventListener("pointermove", (event) => {
    const box = stage.getBoundingClientRect();
    if (event.buttons) move((event.clientX - box.left) / box.width);
  });
  line.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05, Home: -1, End: 1 }[event.key];
    if (step) { event.preventDefault(); move(at + step); }
  });
  return { line, move };
}

function render({ model, el }) {
  const setup = { ...model.get("setup") }, live = setup.live, levels = setup.strengths;
  let ask = structuredClone(model.get("ask"));
  const wish = () => ask.wishes[ask.person] || { emotion: null, strength: 0 };
  const nearest = (s) => levels.reduce((a, b) => (Math.abs(b - s) < Math.abs(a - s) ? b : a));

  let timer = null;
  function tell() {
    paint();
    timer ??= setTimeout(() => { // a drag makes many; the kernel is told the newest, 25 times a second
      timer = null;
      model.set("ask", structuredClone(ask));
      model.save_changes();
    }, live ? 40 : 0);
  }
  function choose({ emotion, strength, push = 0 }) {
    const level = clamp(levels.indexOf(nearest(strength)) + push, 0, levels.length - 1);
    ask.wishes[ask.person] = { ...wish(), emotion, strength: levels[level] };
    tell();
  }
  const set = (name) => (event) => { ask[name] = event.target.value; tell(); };
  const options = (pairs, chosen) => pairs.map(([value, text]) => make("option", { value, selected: value === chosen }, text));
  const field = (words, control) => make("label", { class: "field" }, make("span", {}, words), control);

  // what is shown
  const before = make("img", { class: "before", alt: "before", draggable: "false" });
  const after = make("img", { alt: "after the edit", draggable: "false" });
  const layers = make("div", { class: "layers" }), faces = make("div", { class: "faces" });
  const stage = make("div", { class: "stage" }, after, layers, before, make("i", { class: "tag left" }, "before"),
    make("i", { class: "tag right" }, "after"), faces);
  const cut = divider(stage);
  stage.append(cut.line);
  const strip = make("div", { class: "strip", "aria-label": "strengths" });
  const bars = make("div", { class: "bars" }), cost = make("p", { class: "cost" });
  const error = make("p", { class: "error", role: "alert" }), state = make("p", { class: "state", "aria-live": "polite" });
  const progress = make("div", { class: "progress" }, make("b"));

  // what is asked
  const round = wheel(choose);
  const emotion = make("select", { class: "emotion", onchange: () => choose({ emotion: emotion.value || null,
    strength: wish().strength }) });
  const fill = () => emotion.replaceChildren(...options([["", "as they are"], ...setup.emotions.map((l) => [l.label, l.label])]));
  fill();
  const strength = make("input", { class: "strength", type: "range", min: 0, max: levels.length - 1, step: 1,
    oninput: () => choose({ emotion: wish().emotion, strength: levels[strength.value] }) });
  const value = make("output");
  const person = make("select", { class: "person", onchange: () => pick(Number(person.value)) });
  const kind = make("select", { class: "kind", onchange: set("wheel") }, ...options(Object.keys(setup.wheels).map((w) => [w, w]), ask.wheel));
  const side = make("div", { class: "side" }, round.svg, field("person", person), field("emotion", emotion),
    field("strength", make("span", { class: "pair" }, strength, value)), field("wheel", kind));
  const top = make("div", { class: "top" });
  if (live) {
    const picture = make("select", { class: "picture", onchange: () => {
      ask = { ...ask, picture: picture.value, person: 0, wishes: [] }; tell(); } }, ...options(setup.pictures, ask.picture));
    const file = make("input", { class: "upload", type: "file", accept: "image/*", onchange: async () => {
      const [one] = file.files;
      if (one) model.send({ kind: "upload", name: one.name }, undefined, [await one.arrayBuffer()]);
      file.value = ""; } });
    const via = make("input", { class: "via", type: "checkbox", onchange: () => { ask.via = via.checked; tell(); } });
    const seed = make("input", { class: "seed", type: "number", min: 0, step: 1, value: ask.seed, onchange: () => {
      ask.seed = Math.max(0, Math.floor(Number(seed.value) || 0)); tell(); } });
    const chosen = make("input", { class: "model", value: ask.model, onchange: set("model"), list: "emolib-models",
      title: "minisd, sd15, sd21, sdxl, a folder or a Hub id" });
    const known = make("datalist", { id: "emolib-models" }, ...options(setup.models.map((m) => [m, ""])));
    const save = make("button", { class: "save", onclick: () => model.send({ kind: "save" }) }, "Save");
    const who = make("input", { class: "who", placeholder: "e.g. woman with red hair", onchange: () => {
      ask.wishes[ask.person] = { ...wish(), description: who.value.trim() }; tell(); } });
    top.append(field("picture", picture), field("or your own", make("span", { class: "button" }, "Choose a file", file)),
      field("method", make("select", { class: "method", onchange: set("method") }, ...options(setup.methods.map((m) => [m, m]), ask.method))),
      field("seed", seed), field("through neutral", via), field("model", make("span", {}, chosen, known)), save);
    side.append(field("described as", who));
    model.on("change:scene", () => { who.value = ""; });
  }
  el.classList.add("emolib-playground");
  el.append(top, make("div", { class: "middle" }, make("div", { class: "left" }, progress, stage, strip, state, error),
    make("div", { class: "controls" }, side, make("div", { class: "judge" }, bars, cost))));

  function pick(k) {
    const old = wish();
    ask.person = k;
    if (!ask.wishes[k].emotion) ask.wishes[k] = { ...ask.wishes[k], emotion: old.emotion, strength: old.strength };
    tell();
  }
  function newScene() {
    const scene = model.get("scene");
    if (!scene.people) return;
    show(before, scene.before);
    show(after, scene.before);
    stage.style.aspectRatio = `${scene.width} / ${scene.height}`;
    stage.style.maxWidth = `${Math.min(720, 1.55 * 420 * (scene.width / scene.height))}px`;
    person.replaceChildren(...scene.people.map((p, i) => make("option", { value: i }, `${i + 1}: ${p.description}`)));
    const kept = ask.picture === scene.name && ask.wishes.length === scene.people.length;
    if (!kept) {
      const { feels } = scene.people[0], wanted = setup.first.emotion;
      const old = { emotion: wanted === feels ? setup.emotions.find((e) => e.label !== feels).label : wanted,
        strength: setup.first.strength };
      ask = { ...ask, picture: scene.name, person: 0, wishes: scene.people.map((_, i) =>
        i ? { emotion: null, strength: old.strength } : old) };
      tell();
    }
    const place = el.querySelector("select.picture");
    if (place) {
      if (![...place.options].some((o) => o.value === scene.name)) place.append(make("option", { value: scene.name }, scene.name));
      place.value = scene.name;
    }
    cut.move(Math.max(0, scene.people[ask.person].box[0] / scene.width - 0.04));
    strip.replaceChildren();
    paint();
  }
  function paint() {
    const scene = model.get("scene"), petals = setup.wheels[ask.wheel], mine = wish();
    if (!scene.people) return;
    round.paint(petals, mine);
    [person.value, emotion.value] = [ask.person, mine.emotion || ""];
    strength.value = levels.indexOf(nearest(mine.strength));
    strength.setAttribute("aria-valuetext", percent(mine.strength));
    value.textContent = percent(mine.strength);
    const colour = (name) => (setup.emotions.find((l) => l.label === name) || {}).colour || "#ffffff";
    faces.replaceChildren(...scene.people.map((p, i) => {
      const [x0, y0, x1, y1] = p.box, felt = (ask.wishes[i] || {}).emotion;
      return make("button", { class: i === ask.person ? "face on" : "face", "aria-label": `person ${i + 1}`,
        title: `person ${i + 1}: ${p.description}`, onclick: () => pick(i), style: `left:${(100 * x0) / scene.width}%;
        top:${(100 * y0) / scene.height}%;width:${(100 * (x1 - x0)) / scene.width}%;height:${(100 * (y1 - y0)) / scene.height}%;
        --felt:${colour(felt)}` }, make("b", {}, String(i + 1)));
    }));
    const { quality, ask: answered } = model.get("shown");
    stage.dataset.settled = quality === "full" && JSON.stringify(answered) === JSON.stringify(ask);
    for (const item of strip.children) item.classList.toggle("on", Number(item.dataset.strength) === mine.strength);
  }
  function newShown() {
    const shown = model.get("shown");
    if (!shown.after) return;
    show(after, shown.after);
    layers.replaceChildren(...(shown.layers || []).map((l) => make("img", { src: l.src, alt: "",
      style: `left:${l.x}%;top:${l.y}%;width:${l.w}%;height:${l.h}%` })));
    cost.textContent = shown.cost;
    paint();
    const { before: was, after: is } = shown.bars;
    bars.replaceChildren(make("h4", {}, shown.bars.title), ...setup.labels.map((l, i) => make("div", { class: "bar",
      title: `${l.label}: ${percent(was[i])} before, ${percent(is[i])} after`, style: `--c:${l.colour}` },
      make("span", {}, l.label), make("div", { class: "track" }, make("i", { class: "is", style: `width:${100 * is[i]}%` }),
        make("i", { class: "was", style: `width:${100 * was[i]}%` })), make("em", {}, percent(is[i])))));
    bars.append(make("p", { class: "key" }, "solid: after, outline: before"));
  }
  function newStrip() {
    const { items = [] } = model.get("strip");
    strip.replaceChildren(...items.map((item) => {
      const image = make("img", { alt: "" });
      show(image, item.picture);
      if (item.under) image.style.background = `url(${item.under}) center / cover`;
      return make("button", { "data-strength": item.strength, title: `strength ${percent(item.strength)}`,
        onclick: () => choose({ emotion: wish().emotion, strength: item.strength }) }, image, make("span", {}, percent(item.strength)));
    }));
    paint();
  }
  function newStatus() {
    const { share, text, error: wrong } = model.get("status");
    progress.firstChild.style.width = percent(share || 0);
    progress.classList.toggle("busy", share != null && share < 1);
    state.textContent = text || "";
    error.textContent = wrong || "";
  }
  model.on("change:scene", newScene);
  model.on("change:shown", newShown);
  model.on("change:strip", newStrip);
  model.on("change:status", newStatus);
  model.on("change:setup", () => {
    const { wheels, emotions } = model.get("setup");
    Object.assign(setup, { wheels, emotions });
    fill();
    paint();
  });
  newScene();
  newShown();
  newStrip();
  newStatus();
}

export default { render };
