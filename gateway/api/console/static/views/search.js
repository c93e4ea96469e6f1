// Search: words, a chat, dates. What is asked for stands in the address; what is found opens in the panel.

import { request } from "../api.js";
import { blank, find, h, rove, skeleton } from "../dom.js";
import { directory, offer, queryOf } from "../directory.js";
import { entry, showMessage } from "../entry.js";
import { count, plural } from "../format.js";

const PAGE = 50;
const EMPTY_PAGES = 20; // a page may be empty though there is a next one; so many are asked for at once
const WIDE = matchMedia("(min-width: 721px)");

let section;
let roving = null;
let asked = 0;
let cursor = null;

export function open(opened, address) {
  section = opened;
  const form = find("[data-form]", section);
  for (const field of ["search", "from", "to"]) form.elements[field].value = address.get(field) ?? "";
  form.elements.deleted.checked = address.has("deleted");
  find("[data-refine]", section).open = WIDE.matches || ["chat", "from", "to", "deleted"].some((name) => address.has(name));
  offer(form.elements.chat, address.get("chat") ?? "");
  form.onsubmit = (event) => {
    event.preventDefault();
    const given = [...new FormData(form)].filter(([, value]) => value);
    history.replaceState(null, "", `/console/search${given.length ? `?${new URLSearchParams(given)}` : ""}`);
    run();
  };
  roving ??= rove(find("[data-list]", section), ".entry-open");
  find("[data-more] button", section).onclick = more;
  run(address.get("chat") ?? "");
}

// On a wide window there is no button that opens it.
WIDE.addEventListener("change", () => WIDE.matches && find("[data-refine]").setAttribute("open", ""));

/** Puts the cursor into the field for words. */
export function ask() {
  const field = find("#search-words");
  field.focus();
  field.select();
}

function query(chat) {
  const { search, from, to, deleted } = find("[data-form]", section).elements;
  const moment = (field) => (field.value ? new Date(field.value).toISOString() : "");
  return {
    search: search.value.trim(), ...(chat ? queryOf(chat) : {}), from: moment(from), to: moment(to),
    includeDeleted: deleted.checked || "", limit: PAGE,
  };
}

async function page(wanted, after = null) {
  let found = { items: [], nextCursor: after };
  for (let asks = 0; asks < EMPTY_PAGES && !found.items.length && (asks === 0 || found.nextCursor); asks += 1) {
    found = await request("/api/messages", { query: { ...wanted, cursor: found.nextCursor } });
  }
  return found;
}

async function run(chat = find("#search-chat").value) {
  const mine = (asked += 1);
  const [list, place] = [find("[data-list]", section), find("[data-blank]", section)];
  const wanted = query(chat);
  list.replaceChildren();
  find("[data-more]", section).hidden = true;
  find("[data-fresh]", section).textContent = "";
  place.replaceChildren(skeleton());
  try {
    const [found] = await Promise.all([page(wanted), directory()]);
    if (mine !== asked) return;
    place.replaceChildren();
    add(found);
    if (!found.items.length && !found.nextCursor) {
      place.replaceChildren(blank("search", "Nothing found", wanted.search
        ? "Fewer words, or a longer time, may find more. Words are found whatever their case and accents."
        : "No message is stored yet for this chat and time."));
    }
  } catch (error) {
    if (mine !== asked) return;
    const again = h("button", { type: "button", on: { click: () => run() } }, "Try again");
    place.replaceChildren(blank("bad", "The search did not work", error.message, { bad: true, action: again }));
  }
}

function add({ items, nextCursor }) {
  cursor = nextCursor;
  const list = find("[data-list]", section);
  list.append(...items.map((message) => {
    const row = entry(message, {
      hits: message.highlight?.ranges,
      onOpen: () => showMessage(message, { onClose: () => find(".entry-open", row).focus() }),
    });
    return row;
  }));
  roving();
  find("[data-more]", section).hidden = !cursor;
  const shown = list.children.length;
  find("[data-fresh]", section).textContent = shown ? `${cursor ? `The newest ${count(shown)}` : plural(shown, "message")}` : "";
}

async function more(event) {
  const button = event.currentTarget;
  const mine = asked;
  const last = find("[data-list]", section).lastElementChild;
  button.disabled = true;
  try {
    const found = await page(query(find("#search-chat").value), cursor);
    if (mine === asked) {
      add(found);
      last?.nextElementSibling?.querySelector(".entry-open").focus();
    }
  } catch (error) {
    find("[data-blank]", section).replaceChildren(blank("bad", "The next page did not come", error.message, { bad: true }));
  }
  button.disabled = false;
}
