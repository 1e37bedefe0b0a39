// Access to the document that several modules share: elements by id, new elements, and the line for screen readers.
// Everything from the server is inserted as text (textContent), never as HTML: a <script> in a story is a word.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function fromTemplate(id) {
  return $(id).content.firstElementChild.cloneNode(true);
}

export function fillSelect(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
  if (options.some(([value]) => value === before)) select.value = before;
}

export function say(text) {
  $("announcement").textContent = text;
}

/** Resolves after some seconds, or when the signal is aborted. */
export function pause(seconds, signal = null) {
  return new Promise((resolve) => {
    setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", resolve, { once: true });
  });
}
