"use strict";
// Draws the curves and the spectrum from the data inside the page. No library, no network.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const read = (id) => { const e = document.getElementById(id); return e ? JSON.parse(e.textContent) : null; };
  const number = (v) => v === null ? NaN : v === "inf" ? Infinity : v === "-inf" ? -Infinity : v === "nan" ? NaN : v;
  const finite = Number.isFinite;
  const HIGH = 232, LOW = 92, GAP = 22, LEFT = 46, RIGHT = 12, TOP = 18, BOTTOM = 34;

  function node(name, attributes, parent, text) {
    const e = name === "html" ? document.createElement(attributes.tag) : document.createElementNS(SVG, name);
    for (const [k, v] of Object.entries(attributes)) if (k !== "tag") e.setAttribute(k, v);
    if (text !== undefined) e.textContent = text;
    if (parent) parent.appendChild(e);
    return e;
  }
  const html = (tag, attributes, parent, text) => node("html", { tag, ...attributes }, parent, text);

  const SUPER = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const power = (n) => "10" + String(n).replace("-", "⁻").replace(/\d/g, (d) => SUPER[d]);
  function show(v) {
    if (!finite(v)) return Number.isNaN(v) ? "–" : v > 0 ? "∞" : "−∞";
    const size = Math.abs(v);
    if (size === 0 || (size >= 1e-3 && size < 1e5)) return String(Number(v.toPrecision(4))).replace("-", "−");
    const [m, e] = v.toExponential(2).split("e");
    const mantissa = String(Number(m));
    return (mantissa === "1" ? "" : mantissa + "·").replace("-", "−") + power(Number(e));
  }
  function percent(v) {
    if (!finite(v)) return show(v);
    const p = 100 * v, size = Math.abs(p);
    const digits = size >= 10 || size === 0 ? 0 : size >= 0.995 ? 1 : size >= 0.0995 ? 2 : 3;
    return (p > 0 ? "+" : "") + p.toFixed(digits).replace("-", "−") + " %";
  }

  function plusMinus(v, s) {
    if (!finite(v) || !finite(s) || s <= 0) return show(v);
    const digits = 1 - Math.floor(Math.log10(s));
    if (digits < 0 || digits > 6) return `${show(v)} ± ${show(Number(s.toPrecision(2)))}`;
    return `${v.toFixed(digits)} ± ${s.toFixed(digits)}`.replace("-", "−");
  }

  // ---- axes -------------------------------------------------------------------------------------------------------
  function scale(low, high, from, to, log) {
    const f = log ? Math.log10 : (v) => v;
    const a = f(low), b = f(high), k = b > a ? (to - from) / (b - a) : 0;
    const s = (v) => from + (f(v) - a) * k;
    s.invert = (p) => { const u = a + (p - from) / (k || 1); return log ? 10 ** u : u; };
    return Object.assign(s, { low, high, log });
  }
  function steps(low, high, count) {
    const raw = (high - low) / Math.max(count, 1), base = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * base).find((m) => m >= raw * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push([i * step, show(Number((i * step).toPrecision(12)))]);
    return found;
  }
  function ticks(s, count) {
    if (!s.log) return steps(s.low, s.high, count);
    const first = Math.ceil(Math.log10(s.low) - 1e-9), last = Math.floor(Math.log10(s.high) + 1e-9);
    const decades = Math.log10(s.high / s.low);
    const found = [];
    if (decades > 1.6) {
      const stride = Math.max(1, Math.ceil((last - first + 1) / count));
      const plain = first >= -2 && last <= 3;
      for (let e = first; e <= last; e += stride) found.push([10 ** e, plain ? show(10 ** e) : e === 0 ? "1" : e === 1 ? "10" : power(e)]);
      return found;
    }
    if (decades < 0.25) return steps(s.low, s.high, count);
    const factors = decades < 0.6 ? [1, 1.5, 2, 3, 4, 5, 7] : [1, 2, 5];
    for (let e = first - 1; e <= last; e++) for (const m of factors) {
      const v = m * 10 ** e;
      if (v >= s.low && v <= s.high) found.push([v, show(v)]);
    }
    return found;
  }
  function verticalRules(svg, s, left, right, count) {
    for (const [v, label] of ticks(s, count)) {
      const y = s(v);
      node("line", { class: "rule", x1: left, x2: right, y1: y, y2: y }, svg);
      node("text", { x: left - 7, y: y + 3.5, "text-anchor": "end" }, svg, label);
    }
  }
  function path(points) {
    let d = "", open = false;
    for (const [x, y] of points) {
      if (finite(x) && finite(y)) { d += (open ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1); open = true; } else open = false;
    }
    return d;
  }

  // ---- the readout ------------------------------------------------------------------------------------------------
  const readout = document.getElementById("readout");
  function hideReadout() { readout.hidden = true; }
  function placeReadout(x, y) {
    readout.hidden = false;
    const w = readout.offsetWidth, h = readout.offsetHeight, edge = 8;
    if (innerWidth < 560) {
      // A narrow screen has no room beside the finger: dock at the end that is farther from it.
      readout.style.left = (innerWidth - w) / 2 + "px";
      readout.style.top = (y < innerHeight * 0.6 ? innerHeight - h - edge : edge) + "px";
      return;
    }
    const left = x + 18 + w + edge > innerWidth ? x - 18 - w : x + 18;
    readout.style.left = Math.max(edge, Math.min(left, innerWidth - w - edge)) + "px";
    readout.style.top = Math.max(edge, Math.min(y - h / 2, innerHeight - h - edge)) + "px";
  }

  // ---- learning curves --------------------------------------------------------------------------------------------
  const data = read("chart-data");
  const chart = document.getElementById("chart");
  for (const q of data.quantities) for (const part of ["theory", "measured", "stderr", "error", "z"]) q[part] = q[part].map(number);
  const places = data.x.place.map(number), width = places.length;
  const axis = Object.fromEntries(data.axes.map((a) => [a.name, a]));
  const stride = {};
  data.axes.reduceRight((size, a) => { stride[a.name] = size; return size * a.values.length; }, width);
  const state = {
    quantity: 0, colour: data.roles.colour, panel: data.roles.panel, at: null,
    fixed: Object.fromEntries(data.axes.map((a) => [a.name, 0])),
    off: Object.fromEntries(data.axes.map((a) => [a.name, new Set()])),
  };
  const entries = (name) => name === null ? [0] : axis[name].values.map((_, i) => i).filter((i) => !state.off[name].has(i));
  function base(colour, panel) {
    return data.axes.reduce((sum, a) => sum + stride[a.name] * (a.name === state.colour ? colour : a.name === state.panel ? panel : state.fixed[a.name]), 0);
  }
  const part = (q, name, start) => q[name].slice(start, start + width);
  function tint(name, i) {
    const a = name === null ? { light: ["#067a9b"], dark: ["#5cc3e0"] } : axis[name];
    return `--l:${a.light[i]};--d:${a.dark[i]}`;
  }

  function domains(q) {
    let low = Infinity, high = -Infinity;
    const sizes = [];
    for (const p of entries(state.panel)) for (const c of entries(state.colour)) {
      const start = base(c, p);
      for (let i = start; i < start + width; i++) {
        if (!finite(places[i - start])) continue;
        for (const v of [q.theory[i], q.measured[i]]) if (finite(v)) { low = Math.min(low, v); high = Math.max(high, v); }
        if (finite(q.error[i])) sizes.push(100 * Math.abs(q.error[i]));
      }
    }
    if (!finite(low)) [low, high] = [0, 1];
    const log = low > 0;
    const room = log ? Math.max((high / low) ** 0.05, 1.04) : 0.05 * (high - low || 1);
    sizes.sort((a, b) => a - b);
    const most = sizes.length ? sizes[sizes.length - 1] : 1, usual = sizes.length ? sizes[Math.floor(0.98 * (sizes.length - 1))] : 1;
    return { low: log ? low / room : low - room, high: log ? high * room : high + room, log, reach: 1.2 * Math.max(Math.min(most, 3 * usual), 0.1) };
  }

  let panels = [];
  function draw() {
    chart.textContent = "";
    panels = [];
    const shown = entries(state.panel);
    chart.classList.toggle("single", shown.length < 2);
    const q = data.quantities[state.quantity], d = domains(q);
    const named = state.panel !== null && axis[state.panel].values.length > 1;
    const names = shown.map((p) => named ? `${axis[state.panel].label} ${axis[state.panel].values[p]}` : "");
    // All boxes first: a panel's width depends on how many there are.
    const boxes = shown.map(() => html("div", { class: "panel" }, chart));
    boxes.forEach((box, i) => { if (names[i]) html("h3", {}, box, names[i]); });
    panels = boxes.map((box, i) => drawPanel(box, q, d, shown[i], names[i]));
    mark();
  }

  function drawPanel(box, q, d, p, name) {
    const w = Math.max(box.clientWidth, 200), right = w - RIGHT, low0 = TOP + HIGH + GAP, bottom = low0 + LOW;
    const svg = node("svg", { viewBox: `0 0 ${w} ${bottom + BOTTOM}`, height: bottom + BOTTOM, tabindex: 0, role: "img",
      "aria-label": `${q.label} ${name ? "for " + name : ""}: theory and trained networks over ${data.x.label}. Arrow keys read values.` }, box);
    const known = places.filter(finite);
    const first = Math.min(...known), last = Math.max(...known), pad = data.x.log ? 1 : (last - first) * 0.03 || 1;
    const x = data.x.log ? scale(first, last, LEFT + 6, right - 6, true) : scale(first - pad, last + pad, LEFT, right, false);
    const y = scale(d.low, d.high, TOP + HIGH, TOP, d.log), e = scale(-d.reach, d.reach, bottom, low0, false);
    verticalRules(svg, y, LEFT, right, 5);
    verticalRules(svg, e, LEFT, right, 4);
    const marks = data.x.words ? places.map((v, i) => [v, data.x.text[i]]) : ticks(x, Math.max(3, Math.floor(w / 60)));
    for (const [v, label] of marks) {
      if (data.x.beyond !== null && v > data.x.beyond * 0.8) continue;
      node("line", { class: "rule", x1: x(v), x2: x(v), y1: TOP, y2: TOP + HIGH }, svg);
      node("line", { class: "rule", x1: x(v), x2: x(v), y1: low0, y2: bottom }, svg);
      node("text", { x: x(v), y: bottom + 15, "text-anchor": "middle" }, svg, label);
    }
    if (data.x.beyond !== null) {
      node("line", { class: "guide", x1: x(data.x.beyond), x2: x(data.x.beyond), y1: TOP, y2: bottom }, svg);
      node("text", { x: x(data.x.beyond), y: bottom + 15, "text-anchor": "middle" }, svg, "∞");
    }
    node("text", { class: "name", x: right, y: bottom + 30, "text-anchor": "end" }, svg, data.x.label);
    node("text", { class: "name", x: right, y: TOP - 7, "text-anchor": "end" }, svg, q.label);
    node("text", { class: "name", x: right, y: low0 - 5, "text-anchor": "end" }, svg, "error, %");
    node("line", { class: "frame", x1: LEFT, x2: right, y1: TOP + HIGH, y2: TOP + HIGH }, svg);
    node("line", { class: "frame", x1: LEFT, x2: right, y1: bottom, y2: bottom }, svg);
    node("line", { class: "zero", x1: LEFT, x2: right, y1: e(0), y2: e(0) }, svg);
    for (const c of entries(state.colour)) drawSeries(svg, q, d, base(c, p), c, x, y, e);
    const cross = node("line", { class: "cross", y1: TOP, y2: bottom, x1: 0, x2: 0, visibility: "hidden" }, svg);
    const panel = { svg, cross, x, y, q, p, name };
    listen(panel);
    return panel;
  }

  function drawSeries(svg, q, d, start, c, x, y, e) {
    const g = node("g", { class: "series", style: tint(state.colour, c), "data-entry": c }, svg);
    const [theory, measured, stderr, error] = ["theory", "measured", "stderr", "error"].map((n) => part(q, n, start));
    const limit = state.colour !== null && axis[state.colour].limit[c];
    const body = (v, i) => places[i] === data.x.beyond ? NaN : v;
    const at = (v) => finite(v) && (!d.log || v > 0) ? y(v) : NaN;
    const noise = stderr.map((s, i) => 200 * s / Math.abs(measured[i]));
    const clip = (v) => Math.max(-d.reach, Math.min(d.reach, v));
    let run = [];
    const flush = () => {
      if (run.length) node("path", { class: "band", d: path([...run.map((i) => [x(places[i]), e(clip(noise[i]))]), ...run.reverse().map((i) => [x(places[i]), e(clip(-noise[i]))])]) + "Z" }, g);
      run = [];
    };
    places.forEach((v, i) => { if (finite(v) && finite(error[i]) && finite(noise[i])) run.push(i); else flush(); });
    flush();
    node("path", { class: "line" + (limit ? " dash" : ""), d: path(places.map((v, i) => [x(v), at(body(theory[i], i))])) }, g);
    node("path", { class: "thin", d: path(places.map((v, i) => [x(v), finite(error[i]) ? e(clip(100 * error[i])) : NaN])) }, g);
    const lone = theory.filter((v, i) => finite(at(body(v, i))) && finite(places[i])).length === 1;
    places.forEach((v, i) => {
      if (!finite(v)) return;
      const px = x(v), ty = at(theory[i]), my = at(measured[i]);
      if (finite(ty) && (lone || v === data.x.beyond)) node("line", { class: "line", x1: px - 6, x2: px + 6, y1: ty, y2: ty }, g);
      if (finite(my)) {
        if (finite(stderr[i])) {
          const below = at(measured[i] - stderr[i]);
          node("line", { class: "bar", x1: px, x2: px, y1: at(measured[i] + stderr[i]), y2: finite(below) ? Math.min(below, TOP + HIGH) : TOP + HIGH }, g);
        }
        node("circle", { class: "dot", cx: px, cy: my, r: 2.6 }, g);
      }
      if (theory[i] === Infinity || measured[i] === Infinity) node("path", { class: "lost", d: `M${px - 4} ${TOP + 4}L${px} ${TOP - 4}L${px + 4} ${TOP + 4}Z` }, g);
      const size = 100 * error[i];
      if (finite(size)) {
        if (Math.abs(size) > d.reach) { const s = Math.sign(size), q0 = e(s * d.reach); node("path", { class: "lost", d: `M${px - 3.5} ${q0 + 3 * s}L${px} ${q0 - 4 * s}L${px + 3.5} ${q0 + 3 * s}Z` }, g); }
        else node("circle", { class: "full", cx: px, cy: e(size), r: 1.9 }, g);
      }
    });
  }

  function listen(panel) {
    const { svg, x } = panel;
    const nearest = (clientX) => {
      const box = svg.getBoundingClientRect();
      const u = (clientX - box.left) * (svg.viewBox.baseVal.width / box.width);
      let best = -1;
      places.forEach((v, i) => { if (finite(v) && (best < 0 || Math.abs(x(v) - u) < Math.abs(x(places[best]) - u))) best = i; });
      return best;
    };
    const point = (event) => {
      state.at = nearest(event.clientX);
      const box = svg.getBoundingClientRect();
      mark();
      tell(panel, event.clientX, event.clientY, (event.clientY - box.top) * (svg.viewBox.baseVal.height / box.height));
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", () => { state.at = null; mark(); hideReadout(); });
    svg.addEventListener("blur", () => { state.at = null; mark(); hideReadout(); });
    svg.addEventListener("keydown", (event) => {
      const order = places.map((v, i) => [v, i]).filter(([v]) => finite(v)).sort((a, b) => a[0] - b[0]).map(([, i]) => i);
      const now = order.indexOf(state.at);
      const to = { ArrowRight: now + 1, ArrowLeft: now < 0 ? order.length - 1 : now - 1, Home: 0, End: order.length - 1 }[event.key];
      if (event.key === "Escape") { state.at = null; mark(); hideReadout(); return; }
      if (to === undefined) return;
      event.preventDefault();
      state.at = order[Math.max(0, Math.min(order.length - 1, to))];
      mark();
      const box = svg.getBoundingClientRect();
      tell(panel, box.left + x(places[state.at]) * box.width / svg.viewBox.baseVal.width, box.top + box.height / 3, null);
    });
  }
  function mark() {
    for (const { cross, x } of panels) {
      const on = state.at !== null;
      cross.setAttribute("visibility", on ? "visible" : "hidden");
      if (on) { cross.setAttribute("x1", x(places[state.at])); cross.setAttribute("x2", x(places[state.at])); }
    }
  }
  function tell(panel, px, py, height) {
    const i = state.at, q = panel.q;
    readout.textContent = "";
    html("p", {}, readout, [panel.name, data.x.label ? `${data.x.label} ${data.x.text[i]}` : ""].filter(Boolean).join(", "));
    const table = html("table", {}, readout), head = html("tr", {}, table);
    for (const label of [state.colour === null ? "" : axis[state.colour].label, "theory", "trained", "error", "z"]) html("th", {}, head, label);
    let best = null, least = Infinity;
    for (const c of entries(state.colour)) {
      const at = base(c, panel.p) + i, row = html("tr", {}, table), first = html("td", {}, row);
      html("i", { style: tint(state.colour, c) }, first);
      first.append(state.colour === null ? "" : axis[state.colour].values[c]);
      html("td", {}, row, show(q.theory[at]));
      html("td", {}, row, plusMinus(q.measured[at], q.stderr[at]));
      html("td", {}, row, percent(q.error[at]));
      html("td", {}, row, finite(q.z[at]) ? (q.z[at] > 0 ? "+" : "") + q.z[at].toFixed(1).replace("-", "−") : "–");
      const away = height === null ? Infinity : Math.abs(panel.y(finite(q.measured[at]) ? q.measured[at] : q.theory[at]) - height);
      if (away < least) { least = away; best = row; }
    }
    if (best && least < 40) best.className = "near";
    placeReadout(px, py);
  }

  // ---- controls ---------------------------------------------------------------------------------------------------
  const controls = document.getElementById("controls");
  function group(label) {
    const set = html("fieldset", {}, controls);
    html("legend", {}, set, label);
    return set;
  }
  function chip(set, type, name, label, checked, change) {
    const box = html("label", { class: "chip" }, set);
    const input = html("input", { type, name }, box);
    input.checked = checked;
    input.addEventListener("change", () => change(input));
    box.append(label);
    return box;
  }
  function pick(label, options, chosen, change) {
    const box = html("label", { class: "pick" }, controls, label);
    const select = html("select", {}, box);
    options.forEach(([value, text]) => { const o = html("option", { value }, select, text); o.selected = value === String(chosen); });
    select.addEventListener("change", () => { change(select.value); build(); draw(); });
  }
  function build() {
    controls.textContent = "";
    const varied = data.axes.filter((a) => a.values.length > 1).map((a) => a.name);
    if (data.quantities.length > 1) {
      const set = group("show");
      data.quantities.forEach((q, i) => chip(set, "radio", "quantity", q.label, i === state.quantity, () => { state.quantity = i; draw(); }));
    }
    for (const role of ["colour", "panel"]) {
      const name = state[role];
      if (name === null || axis[name].values.length < 2) continue;
      const set = group(axis[name].label);
      axis[name].values.forEach((v, i) => {
        const box = chip(set, "checkbox", name, "", !state.off[name].has(i), (input) => {
          if (input.checked) state.off[name].delete(i);
          else if (entries(name).length > 1) state.off[name].add(i);
          else input.checked = true;
          draw();
        });
        if (role === "colour") {
          box.style.cssText = tint(name, i);
          box.classList.toggle("limit", axis[name].limit[i]);
          html("i", {}, box);
          box.addEventListener("pointerenter", () => light(i));
          box.addEventListener("pointerleave", () => light(null));
        }
        box.append(v);
      });
    }
    const options = varied.map((n) => [n, axis[n].label]);
    if (varied.length > 1) {
      pick("colour", options, state.colour, (name) => { if (name === state.panel) state.panel = state.colour; state.colour = name; });
      pick("panels", options, state.panel, (name) => { if (name === state.colour) state.colour = state.panel; state.panel = name; });
    }
    for (const name of varied) if (name !== state.colour && name !== state.panel)
      pick(axis[name].label, axis[name].values.map((v, i) => [String(i), v]), state.fixed[name], (i) => { state.fixed[name] = Number(i); });
    controls.hidden = !controls.childElementCount;
  }
  function light(entry) {
    chart.classList.toggle("picked", entry !== null);
    chart.querySelectorAll(".series").forEach((g) => g.classList.toggle("lit", g.dataset.entry === String(entry)));
  }

  // ---- the spectrum -----------------------------------------------------------------------------------------------
  const spectrum = read("spectrum-data");
  function drawSpectrum() {
    const home = document.getElementById("spectrum-chart");
    home.textContent = "";
    const boxes = spectrum.panels.map(() => html("div", { class: "panel" }, home));
    for (const [n, panel] of spectrum.panels.entries()) {
      const box = boxes[n];
      html("h3", {}, box, panel.title);
      const w = Math.max(box.clientWidth, 200), height = 260, right = w - RIGHT;
      const xs = panel.series.flatMap((s) => s.x), ys = panel.series.flatMap((s) => s.y);
      const svg = node("svg", { viewBox: `0 0 ${w} ${height + BOTTOM}`, height: height + BOTTOM, role: "img", "aria-label": `${panel.title} over mode` }, box);
      if (!xs.length) continue;
      const x = scale(Math.min(...xs), Math.max(Math.max(...xs), 2 * Math.min(...xs)), LEFT + 6, right - 6, true);
      const y = scale(Math.min(...ys) / 1.4, Math.max(...ys) * 1.4, height, TOP, true);
      verticalRules(svg, y, LEFT, right, 6);
      if (spectrum.fit) {
        const [a, b] = spectrum.fit.map((v) => Math.max(LEFT, Math.min(right, x(v))));
        node("rect", { class: "range", x: a, y: TOP, width: Math.max(b - a, 0), height: height - TOP }, svg);
      }
      for (const [v, label] of ticks(x, Math.floor(w / 60))) {
        node("line", { class: "rule", x1: x(v), x2: x(v), y1: TOP, y2: height }, svg);
        node("text", { x: x(v), y: height + 15, "text-anchor": "middle" }, svg, label);
      }
      node("text", { class: "name", x: right, y: height + 30, "text-anchor": "end" }, svg, "mode k");
      node("line", { class: "frame", x1: LEFT, x2: right, y1: height, y2: height }, svg);
      if (spectrum.head) {
        node("line", { class: "guide", x1: x(spectrum.head), x2: x(spectrum.head), y1: TOP, y2: height }, svg);
        node("text", { class: "name", x: x(spectrum.head) + 5, y: TOP + 10 }, svg, `head ${spectrum.head}`);
      }
      let row = 0;
      for (const s of panel.series) {
        const g = node("g", { class: "series", style: `--l:var(--${s.colour});--d:var(--${s.colour})` }, svg);
        const ly = height - 14 - 16 * (panel.series.length - 1 - row++), lx = LEFT + 12;
        if (s.kind === "points") {
          s.x.forEach((v, i) => node("circle", { class: "dot", cx: x(v), cy: y(s.y[i]), r: 3 }, g));
          node("circle", { class: "dot", cx: lx + 9, cy: ly, r: 3 }, g);
        } else {
          const kind = "line" + (s.kind === "dash" ? " dash" : "");
          node("path", { class: kind, d: path(s.x.map((v, i) => [x(v), y(s.y[i])])) }, g);
          node("line", { class: kind, x1: lx, x2: lx + 18, y1: ly, y2: ly }, g);
        }
        node("text", { x: lx + 25, y: ly + 4 }, svg, s.label);
      }
      const cross = node("line", { class: "cross", y1: TOP, y2: height, visibility: "hidden" }, svg);
      svg.addEventListener("pointermove", (event) => {
        const area = svg.getBoundingClientRect(), k = x.invert((event.clientX - area.left) * w / area.width);
        readout.textContent = "";
        html("p", {}, readout, `mode ${show(Math.max(1, Math.round(k)))}`);
        const table = html("table", {}, readout);
        for (const s of panel.series) {
          if (!s.x.length || k < s.x[0] / 1.3 || k > s.x[s.x.length - 1] * 1.3) continue;
          const i = s.x.reduce((b, v, j) => Math.abs(Math.log(v / k)) < Math.abs(Math.log(s.x[b] / k)) ? j : b, 0);
          const line = html("tr", {}, table);
          html("td", {}, line, s.label);
          html("td", {}, line, show(Number(s.y[i].toPrecision(3))));
        }
        const px = Math.max(LEFT, Math.min(right, x(k)));
        cross.setAttribute("x1", px); cross.setAttribute("x2", px); cross.setAttribute("visibility", "visible");
        placeReadout(event.clientX, event.clientY);
      });
      svg.addEventListener("pointerleave", () => { cross.setAttribute("visibility", "hidden"); hideReadout(); });
    }
  }

  // ---- the rest ---------------------------------------------------------------------------------------------------
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try { await navigator.clipboard.writeText(source.textContent); button.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(source); button.textContent = "Selected"; }
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
  function drawAll() { draw(); if (spectrum) drawSpectrum(); }
  build();
  drawAll();
  let seen = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== seen) { seen = innerWidth; hideReadout(); drawAll(); } });
  addEventListener("scroll", hideReadout, { passive: true });
})();
