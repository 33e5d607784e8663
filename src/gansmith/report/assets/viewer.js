"use strict";
// The pictures over time: a slider through the grids of one kind, beside the real images.

for (const root of document.querySelectorAll("#viewer")) {
  const { kinds, reals } = DATA.samples;
  const shown = { kind: 0, at: kinds[0].frames.length - 1, timer: null };
  const slider = element("input", { type: "range", min: 0, step: 1, "aria-label": "images seen" });
  const label = element("output");
  const image = element("img", { alt: "" });
  const caption = element("figcaption");
  const play = element("button", { type: "button" }, "▶ play");
  const tabs = kinds.map((kind, index) => {
    const button = element("button", { type: "button" }, kind.title);
    button.addEventListener("click", () => choose(index));
    return button;
  });

  const when = (frame) => (frame.images === null ? "before training" : place(frame.images, "images"));

  function choose(index) {
    // The same moment in the other kind of picture, or the nearest there is.
    const wanted = kinds[shown.kind].frames[shown.at].images ?? -1;
    const distances = kinds[index].frames.map((frame) => Math.abs((frame.images ?? -1) - wanted));
    shown.kind = index;
    shown.at = distances.indexOf(Math.min(...distances));
    draw();
  }

  function draw() {
    const { frames, title } = kinds[shown.kind];
    const frame = frames[shown.at];
    slider.max = frames.length - 1;
    slider.value = shown.at;
    slider.disabled = play.disabled = frames.length < 2;
    slider.setAttribute("aria-valuetext", when(frame));
    label.value = when(frame);
    image.src = frame.src;
    image.alt = `Generated images, ${title}, ${when(frame)}`;
    caption.textContent = `${title}, ${when(frame)} · ${frame.file}`;
    tabs.forEach((tab, index) => tab.setAttribute("aria-pressed", index === shown.kind));
    fit(image, frame);
  }

  /** Small pictures are enlarged: from twice on by whole factors, so that pixels stay square and sharp. */
  function fit(picture, frame) {
    const room = picture.parentElement.clientWidth / frame.width;
    const factor = room >= 2 ? Math.min(Math.floor(room), 4) : Math.min(room, 1.75);
    picture.style.width = `${frame.width * factor}px`;
    picture.style.imageRendering = factor >= 2 ? "pixelated" : "auto";
    picture.width = frame.width;
    picture.height = frame.height;
  }

  /** Acts on the pair's width alone: fitting changes its height, which must not start another round. */
  function resized(act) {
    let width = 0;
    new ResizeObserver(() => {
      if (pair.clientWidth === width) return;
      width = pair.clientWidth;
      requestAnimationFrame(act);
    }).observe(pair);
  }

  function stop() {
    clearInterval(shown.timer);
    shown.timer = null;
    play.textContent = "▶ play";
  }

  function step(by) {
    const { frames } = kinds[shown.kind];
    shown.at = (shown.at + by + frames.length) % frames.length;
    draw();
  }

  slider.addEventListener("input", () => {
    stop();
    shown.at = Number(slider.value);
    draw();
  });
  play.addEventListener("click", () => {
    if (shown.timer) return stop();
    play.textContent = "❚❚ stop";
    shown.timer = setInterval(step, 450, 1);
  });

  const figure = element("figure", {}, caption, image);
  const pair = element("div", { class: "pair" }, figure);
  const controls = element("div", { class: "controls" });
  if (kinds.length > 1) controls.append(element("span", { class: "kinds", role: "group" }, ...tabs));
  controls.append(element("span", { class: "slide" }, play, slider), label);
  root.replaceChildren(controls, pair);
  if (reals) {
    const real = element("img", { src: reals.src, alt: "Real images of the same classes" });
    pair.append(element("figure", {}, element("figcaption", {}, "real images · reals.png"), real));
    resized(() => fit(real, reals));
  }
  resized(() => fit(image, kinds[shown.kind].frames[shown.at]));
  draw();
}
