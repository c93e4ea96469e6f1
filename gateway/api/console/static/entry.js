// One message as a row of a list, and its details in the panel: what was written, its revisions, who processed it.

import { request } from "./api.js";
import { blank, h, highlighted, state } from "./dom.js";
import { keyOf, titleOf } from "./directory.js";
import { count, dateTime, shortTime } from "./format.js";
import { showPanel } from "./panel.js";

const CHANGES = { "message.edited": ["Edited", "edit"], "message.deleted": ["Deleted", "trash"] };

export const contentOf = (message) => message.text ?? message.caption ?? "";

/** A list item. With `onOpen` it can be opened with a click or Enter. */
export function entry(message, { moment = message.telegramDate, hits = [], onOpen } = {}) {
  const deleted = message.kind === "message.deleted" || Boolean(message.deletedAt);
  const title = message.chatTitle ?? titleOf(keyOf(message));
  const when = moment ? shortTime(moment) : "no time";
  const time = h("time", { datetime: moment, title: moment ? dateTime(moment) : null }, when);
  const row = h(
    "li", { class: `entry${onOpen ? " opens" : ""}${deleted ? " deleted" : ""}` },
    // The time is the button, for the keyboard; with a pointer the whole row is one.
    onOpen ? h("button", { type: "button", class: "entry-open", tabindex: "-1", "aria-label": `${when}, ${title}: open` }, time) : time,
    h("div", { class: "from" }, h("span", { class: "chat", title }, title), h("span", { class: "sender" }, senderOf(message))),
    h("div", { class: "what" }, words(message, hits), tags(message)),
  );
  if (onOpen) row.addEventListener("click", () => getSelection().isCollapsed && onOpen());
  return row;
}

function senderOf({ sender, chatTitle }) {
  if (!sender || sender.name === chatTitle) return ""; // a channel that speaks for itself
  return sender.name ?? (sender.username ? `@${sender.username}` : `№ ${sender.id}`);
}

function words(message, hits) {
  const content = contentOf(message);
  if (content) return h("p", { class: "words" }, highlighted(content, hits));
  if (message.kind === "message.deleted") return h("p", { class: "words" }, `Message № ${message.messageId} is gone.`);
  return "";
}

function tags(message) {
  const all = [];
  const change = CHANGES[message.deletedAt ? "message.deleted" : message.kind];
  if (change) all.push(state("off", ...change));
  if (message.mediaType) all.push(state("off", message.mediaType, "media"));
  if (message.messageType === "service") all.push(state("off", "Service message", "help"));
  if (message.source && message.source !== "mtproto") all.push(state("off", message.source, "sync"));
  return all.length ? h("p", { class: "tags" }, all) : "";
}

/** Opens the panel with everything that is known of a message. */
export async function showMessage(message, { onClose } = {}) {
  const panel = showPanel(message.chatTitle ?? titleOf(keyOf(message)), `Message № ${message.messageId}`, { onClose });
  let full;
  try {
    full = await request(`/api/messages/${message.channelId}/${message.messageId}`, {
      query: { accountScope: message.accountScope || "", revisions: true },
    });
  } catch (error) {
    panel.replaceChildren(blank("bad", "The message cannot be shown", error.message, { bad: true }));
    return;
  }
  panel.replaceChildren(...parts(full));
}

function parts(full) {
  const content = contentOf(full);
  const facts = {
    Chat: h("span", { class: "mono" }, keyOf(full)),
    Sender: senderOf(full) || null,
    Written: full.telegramDate ? dateTime(full.telegramDate) : "–",
    Received: `${dateTime(full.receivedAt)} by ${full.account}`,
    Source: full.source,
    Media: full.mediaType ?? "none",
    Topic: full.threadId === null || full.threadId === undefined ? null : count(full.threadId),
    Deleted: full.deletedAt ? dateTime(full.deletedAt) : null,
    "Event id": h("span", { class: "mono" }, full.id),
  };
  return [
    content ? h("p", { class: "words body-text" }, content) : h("p", { class: "muted" }, "It has no words."),
    h("dl", { class: "facts" }, Object.entries(facts).filter(([, value]) => value !== null).map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
    section("Revisions", (full.revisions ?? []).map(revision)),
    section("Consumers", full.processing ? [processing(full.processing)] : []),
  ].filter(Boolean);
}

const section = (title, items) => (items.length ? h("section", {}, h("h3", {}, title), items) : null);

function revision(change) {
  const [word, sign] = CHANGES[change.kind] ?? ["Written", "ok"];
  const moment = change.editDate ?? change.telegramDate ?? change.receivedAt;
  return h(
    "div", { class: "revision" },
    h("p", { class: "when" }, state("off", word, sign), h("time", { datetime: moment }, dateTime(moment))),
    contentOf(change) ? h("p", { class: "words" }, contentOf(change)) : "",
  );
}

const OUTCOMES = { published: "ok", ignored: "off", failed: "bad", retrying: "warn", received: "off" };

function processing({ consumer, status, attempts, error, at }) {
  return h(
    "div", { class: "revision" },
    h("p", { class: "when" }, h("strong", {}, consumer), state(OUTCOMES[status], status), at ? h("time", { datetime: at }, dateTime(at)) : "",
      attempts ? `${count(attempts)} attempts` : ""),
    error ? h("p", {}, error) : "",
  );
}
