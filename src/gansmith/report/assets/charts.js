"use strict";
// Curves as SVG: one shared axis and cross-hair over all charts, drawn again whenever something changes.

const VIEW = { axis: "images", log: false, gone: true, all: false, zoom: null, at: null };
const CHARTS = [];
const HEIGHT = 220, LEFT = 50, RIGHT = 12, TOP = 8, BOTTOM = 22;
const WORDS = { images: "images seen", step: "steps", hours: "hours of training" };

const xs = (line) => DATA.tables[line.table ?? line.source][VIEW.axis];
const present = (values) => values.filter((value) => value !== null && value !== undefined);

/** The part of the axis to show: what was zoomed to, the run, or the references with it. */
function span() {
  if (VIEW.zoom) return VIEW.zoom;
  const [own, all] = extents();
  const high = VIEW.all || !own ? all : own;
  return [0, high || 1];
}

function extents() {
  let own = 0, all = 0;
  for (const chart of CHARTS) {
    for (const line of chart.lines) {
      const here = xs(line);
      for (const i of line.i) {
        all = Math.max(all, here[i] ?? 0);
        if (line.source === 0) own = Math.max(own, here[i] ?? 0);
      }
    }
  }
  return [own, all];
}

class Chart {
  constructor(spec, parent) {
    Object.assign(this, spec);
    this.log = false;
    this.hidden = new Set();
    this.named = this.lines.filter((line) => line.color !== null);
    this.svg = shape("svg", { role: "img", tabindex: 0 });
    this.readout = element("div", { class: "readout" });
    this.button = element("button", { type: "button", "aria-pressed": "false" }, "log");
    this.positive = this.lines.every((line) => present(line.v).every((value) => value > 0));
    this.button.disabled = !this.positive;
    this.button.title = this.positive ? "logarithmic scale" : "has values that are not above 0";
    this.button.addEventListener("click", () => this.scale(!this.log));
    const words = element("div", {}, element("h3", {}, this.title), element("p", {}, this.about()));
    const head = element("header", {}, words, this.button);
    this.legend = element("div", { class: "legend" }, ...this.named.map((line) => this.entry(line)));
    parent.append(element("article", { class: "card chart" }, head, this.svg, this.readout, this.legend));
    listen(this);
  }

  about() {
    const thinned = this.lines.filter((line) => line.of);
    if (!thinned.length) return this.note;
    const most = thinned.reduce((a, b) => (a.of > b.of ? a : b));
    const some = `${most.i.length.toLocaleString("en")} of ${most.of.toLocaleString("en")} rows drawn`;
    return `${this.note ? `${this.note}; ` : ""}${some}, extremes kept`;
  }

  entry(line) {
    const swatch = shape("svg", { viewBox: "0 0 18 8" }, shape("path", { d: "M0 4H18", class: css(line) }));
    const value = element("b");
    const button = element("button", { type: "button", "aria-pressed": "true" }, swatch);
    button.append(element("span", {}, line.label), value);
    button.addEventListener("click", () => {
      this.hidden.has(line) ? this.hidden.delete(line) : this.hidden.add(line);
      button.setAttribute("aria-pressed", !this.hidden.has(line));
      this.draw();
    });
    line.value = value;
    return button;
  }

  scale(log) {
    this.log = log && this.positive;
    this.button.setAttribute("aria-pressed", this.log);
    this.draw();
  }

  draw() {
    this.width = this.svg.clientWidth || 400;
    const [low, high] = span();
    this.x = (value) => LEFT + ((value - low) / (high - low || 1)) * (this.width - LEFT - RIGHT);
    this.unX = (pixel) => low + ((pixel - LEFT) / (this.width - LEFT - RIGHT)) * (high - low);
    const [bottom, top] = this.range(low, high);
    const flat = this.log ? Math.log10 : (value) => value;
    const size = flat(top) - flat(bottom) || 1;
    this.y = (value) => HEIGHT - BOTTOM - ((flat(value) - flat(bottom)) / size) * (HEIGHT - TOP - BOTTOM);
    const clip = `clip${CHARTS.indexOf(this)}`;
    const inside = shape("rect", { x: LEFT, y: 0, width: this.width - LEFT - RIGHT + 4, height: HEIGHT - BOTTOM + 4 });
    const plot = shape("g", { "clip-path": `url(#${clip})` });
    this.marks(plot);
    for (const line of [...this.lines].reverse()) if (!this.hidden.has(line)) this.curve(plot, line);
    this.cross = shape("g", { "pointer-events": "none" });
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.svg.replaceChildren(shape("clipPath", { id: clip }, inside), ...this.axes(low, high, bottom, top), plot, this.cross);
    this.point();
  }

  /** Lowest and highest value to show: abandoned rows, which may have exploded, do not flatten the others. */
  range(low, high) {
    let bottom = Infinity, top = -Infinity;
    for (const line of this.lines) {
      if (this.hidden.has(line)) continue;
      const here = xs(line);
      for (let k = 0; k < line.i.length; k++) {
        const x = here[line.i[k]], value = line.v[k], off = line.sd?.[k] ?? 0;
        if (x === null || value === null || x < low || x > high) continue;
        bottom = Math.min(bottom, this.log ? value : value - off);
        top = Math.max(top, value + off);
      }
    }
    if (bottom > top) return [this.log ? 0.1 : 0, 1];
    if (this.log) return bottom === top ? [bottom / 2, top * 2] : [bottom / 1.1, top * 1.1];
    const pad = bottom === top ? Math.abs(top) * 0.2 || 1 : (top - bottom) * 0.06;
    // From zero where zero is near: distances from it then mean something.
    const from = bottom >= 0 && bottom < 0.35 * top ? 0 : bottom - pad;
    return [from, top + pad];
  }

  axes(low, high, bottom, top) {
    const parts = [];
    const [ys, yStep] = this.log ? logTicks(bottom, top) : ticks(bottom, top, 5);
    for (const value of ys) {
      const y = this.y(value);
      parts.push(shape("path", { class: "grid", d: `M${LEFT} ${y}H${this.width - RIGHT}` }));
      parts.push(shape("text", { x: LEFT - 7, y: y + 4, "text-anchor": "end" }, tick(value, yStep)));
    }
    const [places, xStep] = ticks(low, high, Math.max(2, Math.floor(this.width / 95)));
    for (const value of places) {
      const x = this.x(value), end = x > this.width - 30;
      parts.push(shape("path", { class: "axis", d: `M${x} ${HEIGHT - BOTTOM}v4` }));
      const anchor = end ? "end" : "middle";
      parts.push(shape("text", { x: end ? this.width - 2 : x, y: HEIGHT - 5, "text-anchor": anchor }, tick(value, xStep)));
    }
    parts.push(shape("path", { class: "axis", d: `M${LEFT} ${HEIGHT - BOTTOM}H${this.width - RIGHT}` }));
    return parts;
  }

  marks(plot) {
    for (const mark of DATA.marks) {
      if (mark[VIEW.axis] === null) continue;
      const x = this.x(mark[VIEW.axis]).toFixed(1);
      const line = shape("path", { class: `mark ${mark.kind}`, d: `M${x} 0V${HEIGHT - BOTTOM}` });
      line.append(shape("title", {}, mark.text));
      plot.append(line);
    }
  }

  curve(plot, line) {
    const here = xs(line);
    if (line.gone && VIEW.gone) plot.append(shape("path", { class: `${css(line)} gone`, d: this.path(here, line.gone, plot) }));
    plot.append(shape("path", { class: css(line), d: this.path(here, line, plot) }));
    const single = present(line.v).length === 1;
    if (!line.points && !single) return;
    for (let k = 0; k < line.i.length; k++) {
      if (line.v[k] === null || here[line.i[k]] === null) continue;
      const x = this.x(here[line.i[k]]), y = this.y(line.v[k]), off = line.sd?.[k];
      if (off && !this.log) {
        plot.append(shape("path", { class: `spread k${line.color % 8}`, d: `M${x} ${this.y(line.v[k] - off)}V${this.y(line.v[k] + off)}` }));
      }
      plot.append(shape("circle", { class: `dot k${line.color % 8}`, cx: x, cy: y, r: 3 }));
    }
  }

  /** Broken where a value is missing; a red stroke at the foot says that it was not a finite number. */
  path(here, part, plot) {
    let d = "", pen = "M";
    for (let k = 0; k < part.i.length; k++) {
      const x = here[part.i[k]];
      if (x === null || x === undefined) continue;
      if (part.v[k] === null) {
        plot.append(shape("path", { class: "broken", d: `M${this.x(x)} ${HEIGHT - BOTTOM}v-7` }));
        pen = "M";
        continue;
      }
      d += `${pen}${this.x(x).toFixed(1)} ${this.y(part.v[k]).toFixed(1)}`;
      pen = "L";
    }
    return d;
  }

  /** Cross-hair and values where the pointer is; the newest values without one. */
  point() {
    const parts = [];
    const [low, high] = span();
    const seen = VIEW.at !== null && VIEW.at >= low && VIEW.at <= high;
    if (seen) parts.push(shape("path", { class: "cross", d: `M${this.x(VIEW.at)} 0V${HEIGHT - BOTTOM}` }));
    for (const line of this.named) {
      const k = seen ? nearest(line, VIEW.at, (high - low) * 0.04) : last(line);
      line.value.textContent = k === null ? "–" : written(line.v[k]) + (line.sd?.[k] ? ` ± ${written(line.sd[k])}` : "");
      if (!seen || k === null || line.v[k] === null || this.hidden.has(line)) continue;
      const cx = this.x(xs(line)[line.i[k]]);
      parts.push(shape("circle", { class: `now k${line.color % 8}`, cx, cy: this.y(line.v[k]), r: 3.6 }));
    }
    this.cross.replaceChildren(...parts);
    const near = seen ? DATA.marks.filter((mark) => Math.abs(this.x(mark[VIEW.axis]) - this.x(VIEW.at)) < 5) : [];
    const notes = near.map((mark) => mark.text).join("; ");
    this.readout.textContent = seen ? place(VIEW.at, VIEW.axis) + (notes ? ` · ${notes}` : "") : `newest · over ${WORDS[VIEW.axis]}`;
    const values = this.named.slice(0, 8).map((line) => `${line.label} ${line.value.textContent}`);
    this.svg.setAttribute("aria-label", `${this.title}, ${this.readout.textContent}: ${values.join(", ")}`);
  }
}

const css = (line) =>
  line.color === null ? "curve muted" : `curve k${line.color % 8} s${line.source ? ((line.source - 1) % 3) + 1 : 0}`;

function last(line) {
  for (let k = line.v.length - 1; k >= 0; k--) if (line.v[k] !== null) return k;
  return null;
}

function nearest(line, x, reach) {
  const here = xs(line);
  let best = null, distance = reach;
  for (let k = 0; k < line.i.length; k++) {
    const off = Math.abs((here[line.i[k]] ?? Infinity) - x);
    if (off <= distance) [best, distance] = [k, off];
  }
  return best;
}

function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * ([1, 2, 5, 10].find((factor) => factor * unit >= raw * 0.999) ?? 10);
  const values = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) {
    values.push(Math.abs(value) < step * 1e-6 ? 0 : value);
  }
  return [values, step];
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  if (decades < 0.8) return ticks(low, high, 4);
  const factors = decades > 3 ? [1] : decades > 1.6 ? [1, 3] : [1, 2, 5];
  const values = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of factors) {
      const value = factor * 10 ** power;
      if (value >= low && value <= high) values.push(value);
    }
  }
  const thinner = Math.ceil(values.length / 7);
  return [values.filter((_, index) => index % thinner === 0), 0];
}
