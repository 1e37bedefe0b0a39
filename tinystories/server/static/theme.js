// Light and dark: as the system has it, until a person chooses; the choice is remembered by the browser.

import { $ } from "./page.js";

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function rememberedTheme() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // storage may be switched off; the page works without
  }
}

function showTheme(theme = rememberedTheme()) {
  if (theme) document.documentElement.dataset.theme = theme;
  const dark = theme ? theme === "dark" : systemIsDark.matches;
  $("theme").setAttribute("aria-pressed", String(dark));
}

function switchTheme() {
  const theme = $("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
  showTheme(theme);
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // not remembered, then
  }
}

export function startTheme() {
  showTheme();
  systemIsDark.addEventListener("change", () => showTheme());
  $("theme").onclick = switchTheme;
}
