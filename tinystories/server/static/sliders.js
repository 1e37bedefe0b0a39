// A slider beside each number of the settings, always at the number's value.

import { $, make } from "./page.js";

const pairs = []; // [number field, slider]

export function addSliders() {
  for (const number of $("settings").querySelectorAll("[data-slider]")) {
    const slider = make("input", { type: "range" });
    slider.setAttribute("aria-label", `${number.labels[0].textContent} (slider)`);
    slider.oninput = () => (number.value = slider.value); // the event goes on to the settings, which look at the number
    number.after(slider);
    pairs.push([number, slider]);
  }
}

/** Move each slider to its number, within the number's bounds. */
export function moveSliders() {
  for (const [number, slider] of pairs) {
    Object.assign(slider, { min: number.min, max: number.max, step: number.step || 1 });
    if (number.value) slider.value = number.value;
  }
}
