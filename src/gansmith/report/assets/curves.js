"use strict";
// What one does with the curves: pointing, zooming, stepping with the keyboard, and the toolbar above them.

let waiting = false;

/** Draws everything once, however many changes asked for it. */
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const chart of CHARTS) chart.draw();
    tools.refresh();
  });
}

function pointAt(x) {
  VIEW.at = x;
  for (const chart of CHARTS) chart.point();
}

/** The place of the row nearest to x, so that the cross-hair stands on numbers and not between them. */
function snapped(chart, x) {
  let best = x, distance = Infinity;
  for (const line of chart.lines) {
    if (chart.hidden.has(line)) continue;
    const k = nearest(line, x, distance);
    if (k === null) continue;
    const found = xs(line)[line.i[k]];
    if (Math.abs(found - x) < distance) [best, distance] = [found, Math.abs(found - x)];
  }
  return best;
}

function listen(chart) {
  const { svg } = chart;
  let from = null, box = null;
  const pixel = (event) => event.clientX - svg.getBoundingClientRect().left;
  const clamped = (x) => Math.max(LEFT, Math.min(x, chart.width - RIGHT));

  svg.addEventListener("pointermove", (event) => {
    const x = pixel(event);
    if (from !== null && Math.abs(x - from) > 6) {
      box ??= svg.appendChild(shape("rect", { class: "select", y: 0, height: HEIGHT - BOTTOM }));
      box.setAttribute("x", Math.min(from, clamped(x)));
      box.setAttribute("width", Math.abs(clamped(x) - from));
    }
    pointAt(snapped(chart, chart.unX(clamped(x))));
  });
  svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0) return;
    from = clamped(pixel(event));
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointerup", (event) => {
    const to = clamped(pixel(event));
    if (box) {
      VIEW.zoom = [chart.unX(Math.min(from, to)), chart.unX(Math.max(from, to))];
      redraw();
    }
    from = box = null;
  });
  svg.addEventListener("pointerleave", () => {
    if (from === null) pointAt(null);
  });
  svg.addEventListener("dblclick", () => {
    VIEW.zoom = null;
    redraw();
  });
  svg.addEventListener("keydown", (event) => {
    const line = chart.lines.find((one) => !chart.hidden.has(one));
    if (!line) return;
    const [low, high] = span();
    const places = present(line.i.map((i) => xs(line)[i])).filter((x) => x >= low && x <= high);
    const now = VIEW.at === null ? places.length : places.findIndex((x) => x >= VIEW.at);
    const target = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: places.length - 1 }[event.key];
    if (event.key === "Escape") pointAt(null);
    if (target === undefined || !places.length) return;
    event.preventDefault();
    pointAt(places[Math.max(0, Math.min(target, places.length - 1))]);
  });
  svg.addEventListener("focus", () => svg.matches(":focus-visible") && VIEW.at === null && pointAt(span()[1]));
  svg.addEventListener("blur", () => pointAt(null));
  new ResizeObserver(() => chart.svg.clientWidth !== chart.width && redraw()).observe(svg);
}

const tools = {
  build() {
    const root = document.getElementById("toolbar");
    const axes = element("select", { id: "axis" });
    for (const axis of Object.keys(WORDS)) {
      const known = DATA.tables.some((table) => present(table[axis]).length > 0);
      if (known) axes.append(element("option", { value: axis }, WORDS[axis]));
    }
    axes.addEventListener("change", () => {
      Object.assign(VIEW, { axis: axes.value, zoom: null, at: null });
      redraw();
    });
    root.append(element("label", {}, "over", axes));
    this.toggle(root, "log scale", "every chart whose values are above 0", false, (on) => {
      VIEW.log = on;
      for (const chart of CHARTS) chart.scale(on);
    });
    if (DATA.charts.some((chart) => chart.lines.some((line) => line.gone))) {
      this.toggle(root, "abandoned rows", "logged beyond a place the run later went back to; they may leave the frame", true, (on) => {
        VIEW.gone = on;
        redraw();
      });
    }
    const [own, all] = extents();
    if (own && all > own * 1.02) {
      VIEW.all = all <= 3 * own;
      this.toggle(root, "whole references", "beyond the end of this run", VIEW.all, (on) => {
        Object.assign(VIEW, { all: on, zoom: null });
        redraw();
      });
    }
    this.reset = element("button", { type: "button" }, "reset zoom");
    this.reset.addEventListener("click", () => {
      VIEW.zoom = null;
      redraw();
    });
    this.hint = element("label", {}, "drag across a chart to zoom");
    root.append(this.reset, this.hint);
    root.hidden = false;
  },

  toggle(root, text, title, pressed, act) {
    const button = element("button", { type: "button", title, "aria-pressed": pressed }, text);
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      act(on);
    });
    root.append(button);
  },

  refresh() {
    this.reset.hidden = !VIEW.zoom;
    this.hint.hidden = Boolean(VIEW.zoom) || !matchMedia("(hover: hover)").matches;
  },
};

for (const spec of DATA.charts) {
  CHARTS.push(new Chart(spec, document.getElementById(spec.scores ? "score-charts" : "charts")));
}
if (CHARTS.length) {
  tools.build();
  for (const chart of CHARTS) chart.draw();
  tools.refresh();
}
