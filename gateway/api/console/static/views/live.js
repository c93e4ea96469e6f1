// Live: messages as they come, newest first. The list is bounded; while it is paused, what comes is kept aside.

import { follow, queryString, request } from "../api.js";
import { blank, find, h, icon, rove, state } from "../dom.js";
import { offer, queryOf, titleOf, keyOf } from "../directory.js";
import { contentOf, entry, showMessage } from "../entry.js";
import { plural } from "../format.js";

const SHOWN = 300;
const BEFORE = 30; // messages from before the page was opened, so that it is not empty
const AGAIN_MS = 3000; // until they are asked for again
const AWAY_MS = 600000; // after which a page that comes back begins anew
const SPOKEN_EVERY_MS = 8000; // a summary: each message read out would never end

let view = null;
let renew = null; // the list's one tab stop

function roving(list) {
  renew ??= rove(list, ".entry-open");
  return renew;
}

export function open(section) {
  view = new Live(section);
  view.connect();
  return () => view.close();
}

/** Pauses, or goes on. */
export function toggle() {
  view?.toggle();
}

class Live {
  constructor(section) {
    this.list = find("[data-list]", section);
    this.blank = find("[data-blank]", section);
    this.fresh = find("[data-fresh]", section);
    this.spoken = find("[data-spoken]", section);
    this.chat = find("[data-chat]", section);
    this.words = find("[data-words]", section);
    this.pause = find("[data-pause]", section);
    this.section = section;
    this.leaving = new AbortController();
    this.following = null;
    this.paused = false;
    this.kept = [];
    this.unspoken = 0;
    this.state = null;
    const on = (element, type, listener) => element.addEventListener(type, listener, { signal: this.leaving.signal });
    on(this.chat, "change", () => this.connect());
    on(this.words, "input", () => this.filter());
    on(this.pause, "click", () => this.toggle());
    on(find("[data-clear]", section), "click", () => this.clear());
    // A browser opens six connections to a server: pages that nobody looks at shall not hold one.
    on(document, "visibilitychange", () => (document.hidden ? this.rest() : this.connect(performance.now() - this.restedAt < AWAY_MS)));
    this.roving = roving(this.list);
    this.timer = setInterval(() => this.speak(), SPOKEN_EVERY_MS);
    this.show();
    this.clear();
    offer(this.chat);
  }

  close() {
    clearInterval(this.timer);
    this.leaving.abort();
    this.following?.abort();
  }

  rest() {
    this.restedAt = performance.now();
    this.following.abort();
  }

  /** Follows the chat that is chosen; `resume` goes on behind the last event. */
  connect(resume = false) {
    this.following?.abort();
    this.following = new AbortController();
    if (!resume) {
      this.lastId = null;
      this.empty = true;
      this.clear();
    }
    this.state = ["off", "Connecting …", "wait"];
    this.show();
    const { channelId, accountScope } = this.chat.value ? queryOf(this.chat.value) : {};
    follow(`/api/stream${queryString({ channelId })}`, {
      signal: this.following.signal,
      lastId: this.lastId,
      onOpen: () => {
        this.state = ["ok", "Connected", "live"];
        this.show();
        if (this.empty) this.before({ channelId, accountScope });
      },
      onEvent: ({ data }, lastId) => {
        this.lastId = lastId;
        const message = data === null ? null : JSON.parse(data);
        if (message && (!accountScope || String(message.accountScope) === accountScope)) this.take(message);
      },
      onLost: (error, again) => {
        this.state = ["bad", again ? `${error.message} Trying again …` : error.message];
        this.show();
      },
    });
  }

  take(message) {
    this.unspoken += 1;
    if (this.paused) {
      this.kept.push(message);
      this.kept.splice(0, this.kept.length - SHOWN);
      this.show();
    } else {
      this.add(message);
    }
  }

  add(message) {
    const row = this.row(message);
    row.classList.add("fresh");
    this.list.prepend(row);
    while (this.list.children.length > SHOWN) {
      const last = this.list.lastElementChild;
      if (last.contains(document.activeElement)) break; // the keyboard is on it
      last.remove();
    }
    this.roving();
    this.showBlank();
  }

  /** Shows below what the stream brings what was there before it. */
  async before(chat, { signal } = this.following) {
    this.empty = false;
    let page;
    try {
      page = await request("/api/messages", { query: { ...chat, limit: BEFORE }, signal });
    } catch {
      // What comes is the point of this view; Search tells what is wrong with the rest.
      setTimeout(() => signal.aborted || this.before(chat, { signal }), AGAIN_MS);
      return;
    }
    const shown = new Set([...this.list.children].map((row) => row.dataset.id));
    const older = page.items.filter((message) => !shown.has(message.id)).map((message) => this.row(message));
    if (signal.aborted || !older.length) return;
    this.list.append(h("li", { class: "since" }, "Before this view was opened"), ...older);
    this.roving();
    this.filter();
  }

  row(message) {
    const row = entry(message, { moment: message.receivedAt, onOpen: () => showMessage(message) });
    row.dataset.id = message.id;
    row.dataset.words = `${contentOf(message)}\n${message.sender?.name ?? ""}\n${message.chatTitle ?? titleOf(keyOf(message))}`.toLowerCase();
    row.hidden = !this.matches(row);
    return row;
  }

  matches(row) {
    return row.dataset.words.includes(this.words.value.trim().toLowerCase());
  }

  filter() {
    for (const row of this.list.querySelectorAll(".entry")) row.hidden = !this.matches(row);
    this.showBlank();
  }

  toggle() {
    this.paused = !this.paused;
    const kept = this.kept;
    this.kept = [];
    for (const message of kept) this.add(message);
    this.pause.setAttribute("aria-pressed", String(this.paused));
    this.pause.classList.toggle("pressed", this.paused);
    this.pause.replaceChildren(icon(this.paused ? "play" : "pause"), h("span", {}, this.paused ? "Go on" : "Pause"));
    this.show();
  }

  clear() {
    this.list.replaceChildren();
    this.kept = [];
    this.showBlank();
  }

  show() {
    if (!this.state) return;
    const waiting = this.kept.length ? `, ${plural(this.kept.length, "new message")} waiting` : "";
    this.fresh.replaceChildren(this.paused && this.state[0] === "ok" ? state("warn", `Paused${waiting}`, "pause") : state(...this.state));
    this.showBlank();
  }

  showBlank() {
    const none = !this.list.querySelector(".entry:not([hidden])");
    if (!none) this.blank.replaceChildren();
    else if (!this.blank.children.length) {
      this.blank.append(blank("live", "Nothing yet", "A message appears here as soon as the gateway has stored it."));
    }
  }

  speak() {
    if (!this.unspoken) return;
    this.spoken.textContent = `${plural(this.unspoken, "new message")}${this.paused ? ", paused" : ""}`;
    this.unspoken = 0;
  }
}
