// The keys: g and a letter for a view, / to search, p to pause, ? for the list. They can be switched off, for
// people whose speech input or slips would set them off.

import { find } from "./dom.js";

const AFTER_G_MS = 1500;
const STORED = "keys-off";

const VIEWS = { o: "overview", l: "live", s: "search", c: "chats", g: "gaps", d: "dead-letters" };
let pressedG = -Infinity;

export function install({ go, search, pause }) {
  const on = find("#keys-on");
  on.checked = localStorage.getItem(STORED) === null;
  on.addEventListener("change", () => (on.checked ? localStorage.removeItem(STORED) : localStorage.setItem(STORED, "1")));
  find("#help-button").addEventListener("click", help);
  document.addEventListener("keydown", (event) => {
    if (!on.checked || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest("input, select, textarea, dialog[open]")) return;
    const afterG = event.timeStamp - pressedG < AFTER_G_MS;
    pressedG = -Infinity;
    const action = afterG && VIEWS[event.key]
      ? () => go(VIEWS[event.key])
      : { "/": search, p: pause, "?": help, g: () => (pressedG = event.timeStamp) }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function help() {
  find("#help").showModal();
}
