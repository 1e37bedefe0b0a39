// Checks the form before a request is sent, and shows an error next to its field. The server checks the same later.

import { $, say } from "./page.js";
import { info } from "./server.js";

const form = $("form");
const prompt = $("prompt");

/** The first number field with a value that the server would refuse, if any. */
function wrongField() {
  const wrong = ({ validity: v }) => v.valueMissing || v.badInput || v.rangeUnderflow || v.rangeOverflow;
  return [...form.querySelectorAll("input[type=number]")].find(wrong);
}

/** Show the first error of the form; true if there is one. */
export function reportInvalid() {
  const field = wrongField();
  if (!info) showProblem("The model is not ready yet.");
  else if (field) showProblem(`${field.labels[0].textContent} must be between ${field.min} and ${field.max}.`, field);
  else showProblem("");
  return !$("problem").hidden;
}

/** Show the text below the field and announce it; an empty text removes it. */
function showProblem(text, field = null) {
  const problem = $("problem");
  problem.textContent = text;
  problem.hidden = !text;
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  if (text) say(text);
  if (field?.closest("p")) field.closest("p").append(problem);
  else prompt.after(problem);
  if (!field) return;
  if (field !== prompt) $("settings").open = true; // a field in a closed <details> cannot be focused
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-errormessage", problem.id);
  field.focus();
}

export function showLength() {
  const most = info?.bounds.prompt[1] ?? Infinity;
  const length = [...prompt.value].length; // counted as on the server: an emoji is one character
  $("length").hidden = length <= most;
  $("length").textContent = `${length.toLocaleString("en")} characters; the limit is ${most.toLocaleString("en")}.`;
}
