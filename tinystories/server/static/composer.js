// The composer: it makes way for a story, and "New story" brings it back.

import { $ } from "./page.js";
import { forgetSurprise } from "./beginnings.js";

export function fold() {
  document.body.classList.add("folded");
}

export function unfold() {
  document.body.classList.remove("folded");
  forgetSurprise();
  $("prompt").focus();
  $("prompt").select(); // typing replaces the last beginning
}
