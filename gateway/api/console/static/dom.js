// Builds elements. What others wrote (messages, titles, names) only ever becomes text nodes: nothing here, and
// nothing in the console, turns a string into markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (`class`, `aria-label`, …; `on` holds listeners) and children (nodes or text). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** An SVG element. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A sign of the sprite that every page has. */
export function icon(name) {
  return s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#i-${name}` }));
}

/** A state: a sign and a word. `level` is ok, warn, bad or off. */
export function state(level, word, sign = level) {
  return h("span", { class: `state ${level}` }, icon(sign), h("span", {}, word));
}

export const find = (selector, within = document) => within.querySelector(selector);

/** What stands where a list would be: nothing found, or something failed. */
export function blank(sign, title, text, { bad = false, action = null } = {}) {
  return h(
    "div",
    { class: bad ? "blank bad" : "blank", role: bad ? "alert" : null },
    icon(sign), h("strong", {}, title), text ? h("p", {}, text) : "", action,
  );
}

/** What stands there while the first answer is awaited. */
export function skeleton(lines = 6) {
  const bars = Array.from({ length: lines }, () => h("span"));
  return h("div", { class: "skeleton" }, h("div", { class: "unseen" }, "Loading …"), bars);
}

/** Text of which the ranges [{offset, length}], in order, stand in <mark>. */
export function highlighted(text, ranges = []) {
  const parts = [];
  let at = 0;
  for (const { offset, length } of ranges) {
    parts.push(text.slice(at, offset), h("mark", {}, text.slice(offset, offset + length)));
    at = offset + length;
  }
  parts.push(text.slice(at));
  return parts;
}

/** One tab stop for a list: the arrow keys, Home and End go through the elements that match `selector`. */
export function rove(list, selector) {
  const items = () => [...list.querySelectorAll(selector)];
  const stop = (chosen) => {
    for (const item of items()) item.tabIndex = item === chosen ? 0 : -1;
  };
  list.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item) stop(item);
  });
  list.addEventListener("keydown", (event) => {
    const all = items();
    const here = all.indexOf(event.target.closest(selector));
    if (here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const next = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(next, all.length - 1))]?.focus();
  });
  return () => {
    const all = items();
    stop(all.find((item) => item.tabIndex === 0 && item.getAttribute("tabindex") !== null) ?? all[0]);
  };
}

/** A short message at the edge of the window; read out politely. */
export function toast(level, text) {
  const box = h("div", { class: "toast" }, h("span", { class: level }, icon(level)), h("span", {}, text));
  find("#toasts").append(box);
  setTimeout(() => box.remove(), level === "ok" ? 5000 : 12000);
}

/** Asks before something that cannot be undone; resolves to whether the answer was yes. */
export function ask(title, text, yes) {
  const dialog = find("#ask");
  find("#ask-title").textContent = title;
  find("#ask-text").textContent = text;
  find("#ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  find("#ask-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
