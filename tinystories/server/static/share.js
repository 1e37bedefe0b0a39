// Copies a text to the clipboard, or downloads a file.

import { make, pause, say } from "./page.js";

export async function copy(text, button) {
  button.dataset.name ??= button.textContent; // a second click may come while it says "Copied"
  const copied = await toClipboard(text);
  say(copied ? "Copied." : "Copying did not work.");
  button.textContent = copied ? "Copied" : "Not copied";
  await pause(1.5);
  button.textContent = button.dataset.name;
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // without https, and not on localhost, navigator.clipboard is undefined
    const area = make("textarea", { value: text, className: "hidden" });
    const before = document.activeElement;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    before?.focus();
    return copied;
  }
}

/** content: a text or a Blob. */
export function download(name, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
