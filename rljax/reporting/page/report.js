"use strict";
(() => {
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  };
  const spell = (x, digits = 4) => {
    if (x === null || x === undefined) return "–";
    const size = Math.abs(x);
    const text = size !== 0 && (size < 1e-3 || size >= 1e6)
      ? x.toExponential(digits - 2) : String(Number(x.toPrecision(digits)));
    return text.replace("-", "−");
  };

  // ---- Curves: which lines are shown, and what they are at a step
  const boxes = document.querySelectorAll("[data-toggle]");
  for (const button of document.querySelectorAll("[data-all]")) {
    button.addEventListener("click", () => {
      for (const box of boxes) {
        box.checked = button.dataset.all === "1";
        box.dispatchEvent(new Event("change"));
      }
    });
  }
  for (const box of boxes) {
    box.addEventListener("change", () => {
      for (const line of document.querySelectorAll(`g[data-group="${box.dataset.toggle}"]`)) {
        line.style.display = box.checked ? "" : "none";
      }
    });
  }
  const readout = document.getElementById("readout");
  const read = new WeakMap();
  const linesOf = (figure) => {
    if (!read.has(figure)) {
      const svg = figure.querySelector("svg");
      const [x, y] = [svg.dataset.x, svg.dataset.y].map((text) => text.split(",").map(Number));
      const lines = [...svg.querySelectorAll("path[data-name]")].map((path) => ({
        name: path.dataset.name,
        group: path.parentNode,
        points: path.getAttribute("d").slice(1).split("L").map((pair) => pair.split(",").map(Number)),
      }));
      const places = [...new Set(lines.flatMap((line) => line.points.map((p) => p[0])))];
      places.sort((a, b) => a - b);
      read.set(figure, { svg, x, y, lines, places, at: places.length - 1 });
    }
    return read.get(figure);
  };
  const value = (scale, pixel) =>
    scale[0] + (pixel - scale[2]) / (scale[3] - scale[2]) * (scale[1] - scale[0]);
  const nearest = (sorted, wanted) => {
    let best = 0;
    for (let i = 1; i < sorted.length; i += 1) {
      if (Math.abs(sorted[i] - wanted) < Math.abs(sorted[best] - wanted)) best = i;
    }
    return best;
  };
  const show = (figure) => {
    const { svg, x, y, lines, places, at } = linesOf(figure);
    const pixel = places[at];
    svg.querySelector(".cursor").setAttribute("d", `M${pixel},${y[3]}V${y[2]}`);
    const told = lines
      .filter((line) => line.group.style.display !== "none")
      .map((line) => {
        const point = line.points[nearest(line.points.map((p) => p[0]), pixel)];
        return Math.abs(point[0] - pixel) < 3 ? `${line.name}: ${spell(value(y, point[1]))}` : null;
      })
      .filter(Boolean);
    readout.textContent = `step ${Math.round(value(x, pixel)).toLocaleString("en")}\n${told.join("\n")}`;
    readout.hidden = false;
    const box = svg.getBoundingClientRect();
    const left = box.left + pixel / svg.viewBox.baseVal.width * box.width + 12;
    const room = document.documentElement.clientWidth - readout.offsetWidth - 8;
    const turned = left > room ? left - readout.offsetWidth - 24 : left;
    readout.style.left = `${Math.max(8, turned) + window.scrollX}px`;
    readout.style.top = `${box.top + window.scrollY + 8}px`;
  };
  const hide = (figure) => {
    readout.hidden = true;
    figure.querySelector(".cursor").setAttribute("d", "");
  };
  for (const figure of document.querySelectorAll("figure.curves")) {
    figure.addEventListener("pointermove", (event) => {
      const found = linesOf(figure);
      const box = found.svg.getBoundingClientRect();
      const pixel = (event.clientX - box.left) / box.width * found.svg.viewBox.baseVal.width;
      found.at = nearest(found.places, pixel);
      show(figure);
    });
    figure.addEventListener("pointerleave", () => hide(figure));
    figure.addEventListener("blur", () => hide(figure));
    figure.addEventListener("focus", () => { if (figure.matches(":focus-visible")) show(figure); });
    figure.addEventListener("keydown", (event) => {
      const found = linesOf(figure);
      const last = found.places.length - 1;
      const stride = event.shiftKey ? Math.max(1, Math.round(last / 10)) : 1;
      const target = {
        ArrowLeft: found.at - stride, ArrowRight: found.at + stride, Home: 0, End: last,
      }[event.key];
      if (event.key === "Escape") hide(figure);
      if (target === undefined) return;
      event.preventDefault();
      found.at = Math.min(last, Math.max(0, target));
      show(figure);
    });
  }

  // ---- Tokens of a stored completion
  const root = document.getElementById("token-view");
  if (!root) return;
  const runs = JSON.parse(document.getElementById("tokens-data").textContent);
  const views = [
    ["kl", "KL", "k3 estimate of KL(policy || reference) of the token, nats"],
    ["log_ratio", "log-ratio", "log-probability under the policy less that under the reference, nats"],
    ["advantage", "advantage", "what the update was told of the token"],
    ["value", "value", "the critic's estimate before the token"],
    ["reward", "reward", "score and penalties placed on the token"],
    ["log_prob", "log-probability", "under the policy that sampled, nats"],
    ["learner_ratio", "learner / sampler", "log-probability under the policy that the step starts from less that under the one that sampled, nats"],
  ];
  const select = (label, options, onChange) => {
    const element = make("select");
    const fill = (texts) => element.replaceChildren(
      ...texts.map((text, i) => make("option", { value: String(i) }, text)));
    fill(options);
    element.addEventListener("change", onChange);
    return [make("label", { class: "field" }, make("span", {}, label), element), element, fill];
  };
  const nameOf = (row) => {
    const score = row.score === null || row.score === undefined ? "" : `, score ${spell(row.score)}`;
    const flat = row.prompt.replace(/\s+/g, " ");
    const short = flat.length > 34 ? `${flat.slice(0, 33)}…` : flat;
    return `step ${row.step}${row.held_out ? ", held out" : ""}${score}: ${short}`;
  };
  let view = "kl";
  const [runLabel, runSelect] = select("Run", runs.map((run) => run.label), () => chooseRun());
  const [rowLabel, rowSelect, fillRows] = select("Completion", [], () => chooseRow());
  const choices = make("fieldset", {}, make("legend", {}, "Colour by"));
  const radios = make("div", { class: "choices" });
  choices.append(radios);
  const numbers = make("input", { type: "checkbox" });
  numbers.addEventListener("change", () => root.classList.toggle("numbers", numbers.checked));
  const numbersLabel = make("label", { class: "choices" }, numbers, "numbers");
  const prompt = make("p", { class: "prompt" });
  const gauge = make("div", { class: "gauge" });
  const text = make("div", { class: "text", role: "group", "aria-label": "Tokens of the completion" });
  const told = make("p", { class: "told", role: "status" });
  const controls = make("div", { class: "controls" });
  if (runs.length > 1) controls.append(runLabel);
  controls.append(rowLabel, choices, numbersLabel);
  root.replaceChildren(controls, prompt, gauge, text, told);

  const columnsOf = (table) => {
    const columns = { ...table };
    if (table.learner_log_prob) {
      columns.learner_ratio = table.learner_log_prob.map((x, i) =>
        x === null || table.log_prob[i] === null ? null : x - table.log_prob[i]);
    }
    return columns;
  };
  let columns = {};
  let spans = [];
  let current = 0;

  const chooseRun = () => {
    const { rows } = runs[Number(runSelect.value)];
    fillRows(rows.map(nameOf));
    const last = rows[rows.length - 1].step;
    const trained = rows.findIndex((row) => row.step === last && !row.held_out);
    rowSelect.value = String(Math.max(0, trained));
    chooseRow();
  };
  const chooseRow = () => {
    const row = runs[Number(runSelect.value)].rows[Number(rowSelect.value)];
    columns = columnsOf(row.tokens);
    const there = views.filter(([name]) => columns[name]);
    if (!there.some(([name]) => name === view)) view = there[0][0];
    const hadFocus = radios.contains(document.activeElement);
    radios.replaceChildren(...there.map(([name, label, meaning]) => {
      const input = make("input", { type: "radio", name: "view", value: name });
      input.checked = name === view;
      input.addEventListener("change", () => { view = name; colour(); });
      return make("label", { title: meaning }, input, label);
    }));
    if (hadFocus) radios.querySelector("input:checked").focus();
    prompt.textContent = row.prompt;
    spans = columns.text.map((piece, i) => {
      const shown = piece === "" ? "·" : piece.replace(/\n/g, "⏎\n").replace(/\t/g, "⇥\t");
      const span = make("span", { class: "token", tabindex: "-1" }, make("bdi", {}, shown), make("small"));
      span.addEventListener("focus", () => tell(i));
      span.addEventListener("pointerenter", () => tell(i));
      span.addEventListener("click", () => move(i));
      return span;
    });
    text.replaceChildren(...spans);
    current = 0;
    if (spans.length) spans[0].tabIndex = 0;
    told.textContent = "";
    colour();
  };
  const colour = () => {
    const values = columns[view];
    const sizes = values.filter((x) => x !== null).map(Math.abs).sort((a, b) => a - b);
    const most = sizes.length ? sizes[Math.min(sizes.length - 1, Math.floor(sizes.length * 0.98))] : 0;
    const signed = values.some((x) => x !== null && x < 0);
    spans.forEach((span, i) => {
      const x = values[i];
      const share = x === null || most === 0 ? 0 : Math.min(1, Math.abs(x) / most);
      span.classList.toggle("foreign", x === null);
      span.classList.toggle("up", share > 0.15 && x > 0);
      span.classList.toggle("down", share > 0.15 && x < 0);
      span.style.background = share < 0.02 ? "" :
        `color-mix(in srgb, var(--${x > 0 ? "pos" : "neg"}) ${(share * 55).toFixed(0)}%, transparent)`;
      span.lastChild.textContent = spell(x, 3);
      span.setAttribute("aria-label", `${span.firstChild.textContent} ${view} ${spell(x)}`);
    });
    const mix = (name) => `color-mix(in srgb, var(--${name}) 55%, transparent)`;
    const bar = make("i");
    bar.style.background = signed
      ? `linear-gradient(90deg, ${mix("neg")}, transparent 50%, ${mix("pos")})`
      : `linear-gradient(90deg, transparent, ${mix("pos")})`;
    const meaning = views.find(([name]) => name === view)[2];
    gauge.replaceChildren(signed ? spell(-most) : "0", bar, spell(most), make("span", {}, meaning));
  };
  const tell = (i) => {
    const parts = views.filter(([name]) => columns[name])
      .map(([name, label]) => `${label} ${spell(columns[name][i])}`);
    told.replaceChildren(
      make("b", {}, `token ${i + 1} of ${spans.length}: `),
      make("bdi", {}, JSON.stringify(columns.text[i])), make("br"), parts.join(" · "));
  };
  const move = (i) => {
    spans[current].tabIndex = -1;
    current = Math.min(spans.length - 1, Math.max(0, i));
    spans[current].tabIndex = 0;
    spans[current].focus();
  };
  text.addEventListener("keydown", (event) => {
    const target = {
      ArrowLeft: current - 1, ArrowRight: current + 1, ArrowUp: current - 10, ArrowDown: current + 10,
      Home: 0, End: spans.length - 1,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    move(target);
  });
  chooseRun();
})();
