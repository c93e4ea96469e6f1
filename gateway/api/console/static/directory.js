// The chats by their key, for views that show a title beside what they list, or offer chats to choose from.

import { request } from "./api.js";
import { h } from "./dom.js";

const FRESH_MS = 60000;
const PAGE = 1000;
const PAGES = 10;

let known = new Map();
let at = -Infinity;
let asking = null;

/** `channelId`, or `accountScope/channelId` where message ids count per account. */
export const keyOf = ({ channelId, accountScope }) => (accountScope ? `${accountScope}/${channelId}` : channelId);

/** What of a chat goes into a query. */
export function queryOf(key) {
  const [channelId, accountScope] = key.split("/").reverse();
  return { channelId, accountScope: accountScope ?? "" };
}

/** Chats by key, not older than a minute. Where they cannot be read, what is known of them. */
export async function directory() {
  if (performance.now() - at > FRESH_MS) {
    asking ??= load().finally(() => (asking = null));
    await asking.catch(() => {});
  }
  return known;
}

export const titleOf = (key) => known.get(key)?.title ?? known.get(key)?.username ?? key;

async function load() {
  const found = new Map();
  let cursor = "";
  for (let page = 0; page < PAGES; page += 1) {
    const { channels, nextCursor } = await request("/api/channels", { query: { limit: PAGE, cursor } });
    for (const chat of channels) found.set(keyOf(chat), chat);
    cursor = nextCursor;
    if (!cursor) break;
  }
  known = found;
  at = performance.now();
}

/** Fills a <select> with the chats, and keeps what is chosen. */
export async function offer(select, chosen = select.value) {
  const chats = await directory();
  const options = [...chats].map(([key, chat]) => h("option", { value: key }, chat.title ?? chat.username ?? key));
  if (chosen && !chats.has(chosen)) options.push(h("option", { value: chosen }, chosen));
  select.replaceChildren(select.options[0], ...options);
  select.value = chosen;
}
