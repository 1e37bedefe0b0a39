// What keeps a story from being asked for, said where it is wrong. The server would refuse the same, but later.

import { $, say } from "./page.js";
import { info } from "./server.js";

const form = $("form");
const prompt = $("prompt");

/** The number field that holds what the server would refuse, if there is one. */
function wrongField() {
  const wrong = ({ validity: v }) => v.valueMissing || v.badInput || v.rangeUnderflow || v.rangeOverflow;
  return [...form.querySelectorAll("input[type=number]")].find(wrong);
}

/** Say what keeps a story from being asked for; true if something does. */
export function mistakeSaid() {
  const field = wrongField();
  if (!info) showProblem("The server is not ready yet.");
  else if (!prompt.value.trim()) showProblem("Type a beginning first.", prompt);
  else if (field) showProblem(`${field.labels[0].textContent} must be between ${field.min} and ${field.max}.`, field);
  else showProblem("");
  return !$("problem").hidden;
}

/** Say what is wrong where it is wrong: right below the field. */
function showProblem(text, field = null) {
  const problem = $("problem");
  problem.textContent = text;
  problem.hidden = !text;
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  if (text) say(text);
  if (field?.closest("p")) field.closest("p").append(problem);
  else prompt.after(problem);
  if (!field) return;
  if (field !== prompt) $("settings").open = true; // what is closed cannot be focused
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-errormessage", problem.id);
  field.focus();
}

export function showLength() {
  const most = info?.bounds.prompt[1] ?? Infinity;
  const length = [...prompt.value].length; // as the server counts: an emoji is one character
  $("length").hidden = length <= most;
  $("length").textContent = `${length.toLocaleString("en")} characters; ${most.toLocaleString("en")} are the most.`;
}
