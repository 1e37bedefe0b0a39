// Light and dark theme: the system's, unless one was chosen; the browser stores the choice.

import { $ } from "./page.js";

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function rememberedTheme() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // storage may be disabled
  }
}

/** The button says what a press does. */
function showTheme(theme = rememberedTheme()) {
  if (theme) document.documentElement.dataset.theme = theme;
  const dark = theme ? theme === "dark" : systemIsDark.matches;
  $("theme").value = dark ? "light" : "dark";
  $("theme").textContent = dark ? "Day" : "Night";
}

function switchTheme() {
  const theme = $("theme").value;
  showTheme(theme);
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // storage may be disabled
  }
}

export function startTheme() {
  showTheme();
  systemIsDark.addEventListener("change", () => showTheme());
  $("theme").onclick = switchTheme;
}
