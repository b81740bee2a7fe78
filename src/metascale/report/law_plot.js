"use strict";
const NS = "http://www.w3.org/2000/svg", W = 900, H = 470, M = {l: 74, r: 16, t: 14, b: 48};
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#b0588f"];
const tip = document.getElementById("tip");
function make(tag, attributes, parent, text) {
  const node = document.createElementNS(tag === "div" || tag === "h2" || tag === "p" || tag === "button" || tag === "section"
    ? "http://www.w3.org/1999/xhtml" : NS, tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}
function show(event, text) { tip.textContent = text; tip.style.display = "block";
  tip.style.left = Math.min(event.clientX + 14, innerWidth - 240) + "px"; tip.style.top = event.clientY + 14 + "px"; }
function number(value) { return Number(value.toPrecision(5)).toString(); }
function ticks(low, high, log) {
  const out = [];
  if (log) {
    const wide = Math.log10(high / low) > 3;
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const m of wide ? [1] : [1, 2, 5]) { const v = m * 10 ** e; if (v >= low && v <= high) out.push(v); }
    if (out.length > 1) return out;
    out.length = 0;
  }
  const raw = (high - low) / 6, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * unit).find(s => s >= raw);
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) out.push(v);
  return out;
}
function panel(picture, parent) {
  const section = make("section", {}, parent);
  make("h2", {}, section, picture.title); make("p", {}, section, picture.subtitle);
  const bar = make("div", {}, section), state = {logX: true, logY: true, view: null};
  const xs = picture.points.map(p => p[0]).concat(...picture.bands.map(b => b.x));
  const ys = picture.points.map(p => p[1]).concat(...picture.bands.map(b => b.low.concat(b.high)));
  const full = {x0: Math.min(...xs) / 1.1, x1: Math.max(...xs) * 1.1, y0: Math.min(...ys) / 1.03, y1: Math.max(...ys) * 1.03};
  const svg = make("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": picture.title}, section);
  for (const [name, label] of [["logX", "x: log / linear"], ["logY", "y: log / linear"]])
    make("button", {type: "button"}, bar, label).onclick = () => { state[name] = !state[name]; draw(); };
  make("button", {type: "button"}, bar, "whole range").onclick = () => { state.view = null; draw(); };
  make("p", {}, section, "Drag to zoom, hover for numbers.");
  const to = (v, a, b, log) => log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a);
  const from = (s, a, b, log) => log ? a * (b / a) ** s : a + s * (b - a);
  function draw() {
    svg.replaceChildren();
    const v = state.view || full;
    const X = x => M.l + (W - M.l - M.r) * to(x, v.x0, v.x1, state.logX);
    const Y = y => H - M.b - (H - M.t - M.b) * to(y, v.y0, v.y1, state.logY);
    const clip = "clip" + Math.random().toString(36).slice(2);
    make("rect", {x: M.l, y: M.t, width: W - M.l - M.r, height: H - M.t - M.b}, make("clipPath", {id: clip}, make("defs", {}, svg)));
    for (const x of ticks(v.x0, v.x1, state.logX)) {
      make("line", {x1: X(x), x2: X(x), y1: M.t, y2: H - M.b, stroke: "var(--grid)"}, svg);
      make("text", {x: X(x), y: H - M.b + 18, "text-anchor": "middle"}, svg, number(x));
    }
    for (const y of ticks(v.y0, v.y1, state.logY)) {
      make("line", {x1: M.l, x2: W - M.r, y1: Y(y), y2: Y(y), stroke: "var(--grid)"}, svg);
      make("text", {x: M.l - 8, y: Y(y) + 4, "text-anchor": "end"}, svg, number(y));
    }
    make("text", {x: (W + M.l) / 2, y: H - 8, "text-anchor": "middle"}, svg, picture.x_name);
    make("text", {x: 16, y: H / 2, transform: `rotate(-90 16 ${H / 2})`, "text-anchor": "middle"}, svg, picture.loss_name);
    const plot = make("g", {"clip-path": `url(#${clip})`}, svg);
    const surface = make("rect", {x: M.l, y: M.t, width: W - M.l - M.r, height: H - M.t - M.b, fill: "transparent"}, plot);
    picture.bands.forEach((band, k) => {
      const colour = COLOURS[k % 4], line = ys => band.x.map((x, i) => `${X(x)},${Y(ys[i])}`);
      make("polygon", {points: line(band.low).concat(line(band.high).reverse()).join(" "), fill: colour, opacity: .18}, plot);
      make("polyline", {points: line(band.median).join(" "), fill: "none", stroke: colour, "stroke-width": 2}, plot);
      make("text", {x: W - M.r - 6, y: M.t + 18 + 18 * k, "text-anchor": "end", style: `fill:${colour}`}, svg, band.name);
      band.x.forEach((x, i) => { const dot = make("circle", {cx: X(x), cy: Y(band.median[i]), r: 7, fill: "transparent"}, plot);
        dot.onpointermove = e => show(e, `${band.name}\n${picture.x_name} ${number(x)}: ${number(band.median[i])}` +
          ` (${number(band.low[i])} to ${number(band.high[i])})`); dot.onpointerleave = () => tip.style.display = "none"; });
    });
    for (const [x, y] of picture.points) {
      const dot = make("circle", {cx: X(x), cy: Y(y), r: 4, fill: "var(--soft)", opacity: .7}, plot);
      dot.onpointermove = e => show(e, `${picture.x_name} ${number(x)}\n${picture.loss_name} ${number(y)}`);
      dot.onpointerleave = () => tip.style.display = "none";
    }
    const h = picture.hidden;
    if (h) { make("line", {x1: X(h.x), x2: X(h.x), y1: Y(h.low), y2: Y(h.high), stroke: "var(--ink)", "stroke-width": 2}, plot);
      const mark = make("rect", {x: X(h.x) - 5, y: Y(h.y) - 5, width: 10, height: 10, fill: "var(--ink)"}, plot);
      mark.onpointermove = e => show(e, `predicted without the largest scale\n${number(h.y)} (${number(h.low)} to ${number(h.high)})`);
      mark.onpointerleave = () => tip.style.display = "none"; }
    let start = null, box = null;
    const at = e => { const r = svg.getBoundingClientRect(); return [(e.clientX - r.left) * W / r.width, (e.clientY - r.top) * H / r.height]; };
    surface.onpointerdown = e => { start = at(e); surface.setPointerCapture(e.pointerId);
      box = make("rect", {fill: "var(--soft)", opacity: .2}, plot); };
    surface.onpointermove = e => { if (!start) return; const p = at(e);
      for (const [k, val] of Object.entries({x: Math.min(p[0], start[0]), y: Math.min(p[1], start[1]),
        width: Math.abs(p[0] - start[0]), height: Math.abs(p[1] - start[1])})) box.setAttribute(k, val); };
    surface.onpointerup = e => { if (!start) return; const p = at(e), s = start; start = null;
      if (Math.abs(p[0] - s[0]) > 12 && Math.abs(p[1] - s[1]) > 12) {
        const fx = q => from((q - M.l) / (W - M.l - M.r), v.x0, v.x1, state.logX);
        const fy = q => from((H - M.b - q) / (H - M.t - M.b), v.y0, v.y1, state.logY);
        state.view = {x0: fx(Math.min(p[0], s[0])), x1: fx(Math.max(p[0], s[0])), y0: fy(Math.max(p[1], s[1])), y1: fy(Math.min(p[1], s[1]))};
      }
      draw(); };
  }
  draw();
}
for (const picture of JSON.parse(document.getElementById("data").textContent)) panel(picture, document.querySelector("main"));
