// The one place that counts down the seconds until another story may be requested.

import { $, pause, say } from "./page.js";

let current = null; // identifies the countdown that is shown

/** Count down; screen readers announce only the end. */
export async function countDown(seconds) {
  const own = (current = {});
  $("wait").hidden = false;
  for (let left = seconds; left > 0; left--) {
    $("wait").textContent = `Try again in ${left} s.`;
    await pause(1);
    if (own !== current) return;
  }
  $("wait").textContent = "You can try again now.";
  say("You can try again now.");
}

export function endCountdown() {
  current = null;
  $("wait").hidden = true;
}
