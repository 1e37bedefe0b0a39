// The reading view: one story alone.

import { $ } from "./page.js";
import { write } from "./story.js";
import { hideTip } from "./probabilities.js";

export function openReader(record) {
  const view = { body: $("page"), paragraph: null };
  view.body.replaceChildren();
  write(view, record.request.prompt, "beginning");
  write(view, record.text, "generated");
  hideTip();
  $("reader").showModal();
  view.body.focus();
  $("reader").scrollTop = 0;
}
