"use strict";
// What all parts of the page share: the data, building elements, writing numbers, the theme.

const DATA = JSON.parse(document.getElementById("data").textContent);

/** An element with attributes and children; text is always text, never markup. */
function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** A measured number with four significant digits. */
function written(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

/** A place on the axis in full: 130,048 images, step 1,016, 1.35 h. */
function place(value, axis) {
  if (value === null || value === undefined) return "–";
  if (axis === "hours") return `${value.toFixed(2)} h`;
  const whole = Math.round(value).toLocaleString("en");
  return axis === "step" ? `step ${whole}` : `${whole} images`;
}

/** A tick: 64k, 1.5M; digits as the distance between ticks needs them. */
function tick(value, step) {
  if (value === 0) return "0";
  for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= unit) return decimals(value / unit, step / unit) + letter;
  }
  if (Math.abs(value) < 1e-3) return value.toExponential(step && step < Math.abs(value) ? 1 : 0);
  return decimals(value, step);
}

function decimals(value, step) {
  const digits = step ? Math.max(0, Math.min(8, -Math.floor(Math.log10(step) + 1e-9))) : 6;
  return String(Number(value.toFixed(digits))).replace("-", "−");
}

{
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
  });
}

for (const box of document.querySelectorAll("[data-hides]")) {
  const apply = () => document.getElementById(box.dataset.hides).classList.toggle("hide-saved", !box.checked);
  box.addEventListener("change", apply);
  apply();
}
