// The console's frame: which view is open, what the side says of the gateway, and the keys. Each view is a module
// with `open(section, query)`, called when it is shown; what that returns is called when it is left.

import { find, h, icon, state, toast } from "./dom.js";
import { plural, span } from "./format.js";
import * as keys from "./keys.js";
import * as session from "./session.js";
import { start, watch } from "./watch.js";
import * as chats from "./views/chats.js";
import * as deadLetters from "./views/dead_letters.js";
import * as gaps from "./views/gaps.js";
import * as live from "./views/live.js";
import * as overview from "./views/overview.js";
import * as search from "./views/search.js";

const VIEWS = { overview, live, search, chats, gaps, "dead-letters": deadLetters };
const LATE_SECONDS = 15; // an answer as old as this is no longer the present

let current = null;
let leave = () => {};

const pathOf = (view) => (view === "overview" ? "/" : `/console/${view}`);
const viewAt = (path) => (path === "/" ? "overview" : path.slice("/console/".length));

function show(view, { focus = true } = {}) {
  leave();
  closeMenu();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  current = view;
  for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== `view-${view}`;
  for (const link of document.querySelectorAll(".nav a")) {
    if (link.dataset.for === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const section = find(`#view-${view}`);
  document.title = `${section.dataset.title} · Telegram gateway`;
  leave = VIEWS[view].open(section, new URLSearchParams(location.search)) ?? (() => {});
  if (focus) {
    window.scrollTo(0, 0);
    find("h1", section).focus();
  }
}

/** Opens a view; `query` goes into the address, so that it can be kept and sent to somebody. */
function go(view, query = "") {
  history.pushState(null, "", pathOf(view) + query);
  show(view);
}

function followLinks(event) {
  const link = event.target.closest("a[data-link]");
  if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(viewAt(link.pathname), link.search);
}

function closeMenu() {
  find("#side").classList.remove("open");
  find("#menu-button").setAttribute("aria-expanded", "false");
}

function menu() {
  const button = find("#menu-button");
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(open));
  find("#side").classList.toggle("open", open);
  if (open) find("#side a").focus();
}

const LEVELS = { healthy: ["ok", "Healthy"], degraded: ["warn", "Degraded"], down: ["bad", "Down"] };

function showLink() {
  const place = find("#link-state");
  const notice = find("#link-notice");
  const { status, error, at } = watch;
  const age = (Date.now() - at) / 1000;
  if (error) {
    place.replaceChildren(state("bad", "API does not answer"));
    tell(notice, "bad", `${error.message} ${at ? `What is shown is ${span(age)} old.` : "Nothing is known yet."} Trying again every few seconds.`);
  } else if (!status) {
    return;
  } else if (!status.reachable) {
    place.replaceChildren(state("bad", "Daemon does not answer"));
    tell(notice, "bad", "The daemon does not answer the API: stored messages can be read, but nothing is known of accounts and sinks. Look at: systemctl status telegram-gateway");
  } else {
    const [level, word] = LEVELS[status.health];
    place.replaceChildren(state(age > LATE_SECONDS ? "off" : level, age > LATE_SECONDS ? `${word} ${span(age)} ago` : word, level));
    notice.hidden = true;
  }
  badge("gaps", status?.accounts.reduce((sum, account) => sum + account.openGaps, 0), "open gap");
  badge("dead-letters", watch.letters, "dead letter");
}

function tell(notice, level, text) {
  // Written only when it is new: an alert is read out each time it changes.
  const shown = notice.dataset.text?.replace(/\d.* old/, "");
  if (notice.hidden || shown !== text.replace(/\d.* old/, "")) {
    notice.replaceChildren(icon(level), h("span", {}, text));
    notice.className = `notice ${level}`;
    notice.hidden = false;
  } else {
    find("span", notice).textContent = text;
  }
  notice.dataset.text = text;
}

function badge(view, number, word) {
  const place = find(`[data-badge="${view}"]`);
  place.hidden = !number;
  if (number) place.replaceChildren(String(number > 999 ? "999+" : number), h("span", { class: "unseen" }, ` ${plural(number, word).split(" ").slice(1).join(" ")}`));
}

async function main() {
  try {
    if (!await session.open()) return;
  } catch (error) {
    tell(find("#link-notice"), "bad", `${error.message} Reload the page to try again.`);
    return;
  }
  const { name, what } = session.described();
  find("#who-name").textContent = name;
  find("#who-scopes").textContent = what;
  find("#sign-out").addEventListener("click", () => session.signOut().catch((error) => toast("bad", error.message)));
  find("#menu-button").addEventListener("click", menu);
  find("#side").addEventListener("keydown", (event) => {
    if (event.key === "Escape" && find("#side").classList.contains("open")) {
      closeMenu();
      find("#menu-button").focus();
    }
  });
  document.addEventListener("click", followLinks);
  window.addEventListener("popstate", () => show(viewAt(location.pathname)));
  keys.install({
    go,
    pause: () => current === "live" && live.toggle(),
    search: () => {
      if (current === "chats") chats.filter();
      else if (current === "search") search.ask();
      else {
        go("search");
        search.ask();
      }
    },
  });
  watch.addEventListener("change", showLink);
  setInterval(showLink, 1000);
  start();
  show(viewAt(location.pathname), { focus: false });
}

main();
