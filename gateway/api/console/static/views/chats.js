// Chats: which of them are captured, switched at once and back again when the API refuses.

import { ApiError, request } from "../api.js";
import { blank, find, h, skeleton, state, toast } from "../dom.js";
import { ago, count, plural, span } from "../format.js";
import { keyOf } from "../directory.js";
import { showPanel } from "../panel.js";
import { may } from "../session.js";
import { syncButton } from "../sync.js";
import { table } from "../table.js";

const PAGE = 200;
const TYPING_MS = 250;
const TYPES = { private: "Private chat", group: "Group", supergroup: "Supergroup", channel: "Channel" };
const HEALTH = {
  active: ["ok", "Active"],
  quiet: ["ok", "Quiet for over an hour", "wait"],
  silent: ["warn", "Silent for over a day", "wait"],
  inactive: ["off", "Off"],
};

let section;

export function open(opened) {
  section = opened;
  const filter = find("[data-filter]", section);
  const active = find("[data-state]", section);
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(load, TYPING_MS);
  };
  const leaving = new AbortController();
  filter.addEventListener("input", later, { signal: leaving.signal });
  active.addEventListener("change", load, { signal: leaving.signal });
  load();
  return () => {
    clearTimeout(timer);
    leaving.abort();
  };
}

/** Puts the cursor into the filter. */
export function filter() {
  find("[data-filter]", section).focus();
}

let asked = 0;

async function load() {
  const place = find("[data-list]", section);
  const words = find("[data-filter]", section).value.trim();
  const active = { on: true, off: false }[find("[data-state]", section).value];
  const mine = (asked += 1);
  if (!place.querySelector("table")) place.replaceChildren(skeleton());
  try {
    const first = await page({ search: words.replace(/^@/, ""), active });
    if (mine !== asked) return;
    show(place, first, { search: words.replace(/^@/, ""), active });
  } catch (error) {
    if (mine !== asked) return;
    place.replaceChildren(blank("bad", "The chats cannot be shown", error.message, { bad: true, action: retry() }));
  }
}

const page = (query) => request("/api/channels", { query: { limit: PAGE, ...query } });

const retry = () => h("button", { type: "button", on: { click: load } }, "Try again");

function show(place, { channels, nextCursor }, query) {
  const shown = [];
  const fresh = find("[data-fresh]", section);
  const add = (chats) => {
    shown.push(...chats);
    const off = shown.filter((chat) => !chat.isActive).length;
    fresh.textContent = `${plural(shown.length, "chat")}${nextCursor ? " so far" : ""}, ${count(off)} off`;
  };
  add(channels);
  if (!shown.length) {
    place.replaceChildren(query.search || query.active !== undefined
      ? blank("search", "No chat is like that", "Other words, or another choice, may find one.")
      : blank("chats", "No chats yet", "A chat appears here with its first message."));
    return;
  }
  const list = chatTable(channels);
  const more = h("div", { class: "more" }, h("button", { type: "button", on: { click: async (event) => {
    event.target.disabled = true;
    try {
      const next = await page({ ...query, cursor: nextCursor });
      nextCursor = next.nextCursor;
      add(next.channels);
      find("tbody", list).append(...chatTable(next.channels).querySelectorAll("tbody tr"));
      more.hidden = !nextCursor;
    } catch (error) {
      toast("bad", error.message);
    }
    event.target.disabled = false;
  } } }, "More"));
  more.hidden = !nextCursor;
  place.replaceChildren(list, more);
}

function chatTable(chats) {
  return table("Chats", [
    { label: "Chat", title: true, cell: (chat) => h(
      "div", {}, chat.title ?? h("span", { class: "muted" }, "No title yet"),
      h("span", { class: "sub" }, chat.username ? `@${chat.username} · ` : "", h("span", { class: "mono" }, keyOf(chat))),
    ) },
    { label: "Type", cell: (chat) => TYPES[chat.type] },
    { label: "Last message", number: true, cell: (chat) => (chat.lastMessageDate ? ago(chat.lastMessageDate) : "none yet") },
    { label: "Captured", cell: (chat) => (may("admin") ? toggle(chat) : chat.isActive ? state("ok", "On") : state("off", "Off")) },
    { label: "More", actions: true, cell: (chat) => h(
      "button", { type: "button", "aria-label": `Details of ${chat.title ?? keyOf(chat)}`, on: { click: () => details(chat) } }, "Details",
    ) },
  ], chats, { key: keyOf });
}

function toggle(chat) {
  const button = h("button", { type: "button", class: "switch", role: "switch", "aria-label": `Capture ${chat.title ?? keyOf(chat)}` });
  const show = (on) => {
    button.setAttribute("aria-checked", String(on));
    button.replaceChildren(h("span", { "aria-hidden": "true" }, on ? "On" : "Off"));
  };
  show(chat.isActive);
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-busy")) return;
    const wanted = !chat.isActive;
    button.setAttribute("aria-busy", "true");
    show(wanted);
    try {
      Object.assign(chat, await put(chat, wanted));
      const name = chat.title ?? keyOf(chat);
      toast("ok", wanted ? `${name} is on. What came meanwhile is fetched.` : `${name} is off. Nothing of it is captured from now on.`);
    } catch (error) {
      toast("bad", `${chat.title ?? keyOf(chat)} was not switched: ${error.message}`);
      if (error.status === 412) load();
    } finally {
      show(chat.isActive);
      button.removeAttribute("aria-busy");
    }
  });
  return button;
}

async function put(chat, isActive) {
  const scope = chat.accountScope ? `?accountScope=${chat.accountScope}` : "";
  return request(`/api/channels/${chat.channelId}${scope}`, {
    method: "PUT", body: { isActive }, headers: { "If-Match": `"${chat.version}"` },
  });
}

async function details(chat) {
  const key = keyOf(chat);
  const panel = showPanel(chat.title ?? key, TYPES[chat.type]);
  try {
    const { channelId, accountScope } = chat;
    const full = await request(`/api/channels/${channelId}`, { query: { accountScope: accountScope || "" } });
    panel.replaceChildren(...parts(full, key));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    panel.replaceChildren(blank("bad", "The chat cannot be shown", error.message, { bad: true }));
  }
}

function parts(chat, key) {
  const { health } = chat;
  const [level, word, sign] = HEALTH[health.health] ?? ["off", health.health];
  const facts = {
    State: state(level, word, sign),
    "Last message": chat.lastMessageDate ? `№ ${count(chat.lastMessageId)}, ${ago(chat.lastMessageDate)}` : "none yet",
    "First message": chat.firstMessageDate ? `№ ${count(chat.firstMessageId)}, ${ago(chat.firstMessageDate)}` : "none yet",
    "Within a day": `${plural(health.messagesLastDay, "message")}, ${count(health.notLiveLastDay)} of them fetched later`,
    "Delay on average": health.meanDelaySeconds === null ? "–" : `${health.meanDelaySeconds.toFixed(1)} s`,
    "Silent for": health.silentSeconds === null ? "–" : span(health.silentSeconds),
    "Last switched": chat.switchedAt ? ago(chat.switchedAt) : "never",
    "Id": h("span", { class: "mono" }, key),
  };
  const look = h("a", { href: `/console/search?chat=${encodeURIComponent(key)}`, "data-link": true }, "Its messages");
  const sync = may("admin") && chat.isActive ? syncButton({ channelId: chat.channelId, accountScope: chat.accountScope }, "Compare with Telegram") : "";
  return [
    h("dl", { class: "facts" }, Object.entries(facts).map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
    h("p", {}, look),
    sync ? h("div", {}, sync) : "",
  ];
}
