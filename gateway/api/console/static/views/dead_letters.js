// Dead letters: messages that consumers gave up on. Looked at, given back, or dropped after a question.

import { request } from "../api.js";
import { ask, blank, find, h, icon, skeleton, state, toast } from "../dom.js";
import { directory, titleOf } from "../directory.js";
import { ago, bytes, count, dateTime, plural } from "../format.js";
import { closePanel, showPanel } from "../panel.js";
import { may } from "../session.js";
import { table } from "../table.js";
import { watch } from "../watch.js";

const LISTED = 200;
const KINDS = { "message.new": "New message", "message.edited": "Edit", "message.deleted": "Deletion" };

let section;

export function open(opened) {
  section = opened;
  const again = find("[data-again]", section);
  again.onclick = load;
  again.hidden = !may("admin");
  const place = find("[data-list]", section);
  if (!may("admin")) {
    find("[data-fresh]", section).textContent = "";
    place.replaceChildren(blank("off", "This token may not see the dead letters", "They need a token with the scope admin."));
    return;
  }
  place.replaceChildren(skeleton(4));
  load();
}

async function load() {
  const place = find("[data-list]", section);
  const fresh = find("[data-fresh]", section);
  let found;
  try {
    [found] = await Promise.all([request("/api/dead-letters", { query: { limit: LISTED } }), directory()]);
  } catch (error) {
    fresh.textContent = "";
    place.replaceChildren(blank("bad", "The dead letters cannot be shown", error.message, { bad: true }));
    return;
  }
  watch.letters = found.total;
  watch.dispatchEvent(new Event("change"));
  fresh.textContent = found.total ? `${plural(found.total, "letter")}${found.letters.length < found.total ? `, the oldest ${count(found.letters.length)} shown` : ""}` : "";
  place.replaceChildren(found.letters.length
    ? letterTable(found.letters)
    : blank("ok", "No dead letters", "No consumer has given up on a message within the last 24 hours."));
}

const named = (letter) => (letter.chatKey ? `${titleOf(letter.chatKey)}, message ${letter.messageId ?? "?"}` : letter.eventId ?? letter.id);

function letterTable(letters) {
  return table("Dead letters", [
    { label: "Message", title: true, cell: (letter) => h(
      "div", {}, letter.chatKey ? titleOf(letter.chatKey) : "Unknown chat",
      h("span", { class: "sub" }, `${KINDS[letter.kind] ?? "Of no known kind"} · № ${letter.messageId ?? "?"}`),
    ) },
    { label: "Consumer", cell: (letter) => letter.consumer ?? "unknown" },
    { label: "Reason", cell: (letter) => h("div", {}, letter.reason, h("span", { class: "sub" }, by(letter))) },
    { label: "Parked", number: true, cell: (letter) => (letter.at ? ago(letter.at) : "–") },
    { label: "Requeued", number: true, cell: (letter) => (letter.requeued ? `${count(letter.requeued)} ×` : "never") },
    { label: "Do", actions: true, cell: (letter) => [
      h("button", { type: "button", "aria-label": `Show ${named(letter)}`, on: { click: () => details(letter) } }, "Show"),
      requeueButton(letter),
    ] },
  ], letters, { key: (letter) => letter.id });
}

function by(letter) {
  const tries = letter.attempts === null ? "" : ` after ${plural(letter.attempts, "attempt")}`;
  return letter.by === "broker" ? `RabbitMQ took it out of the queue${tries}` : `the consumer gave up${tries}`;
}

function requeueButton(letter) {
  return h("button", { type: "button", "aria-label": `Requeue ${named(letter)}`, on: { click: (event) => act(event.currentTarget, async () => {
    const { queue } = await request(`/api/dead-letters/${letter.id}/requeue`, { method: "POST" });
    toast("ok", `It is back in ${queue}.`);
  }) } }, icon("requeue"), h("span", {}, "Requeue"));
}

function dropButton(letter) {
  return h("button", { type: "button", class: "danger", on: { click: async (event) => {
    const button = event.currentTarget;
    const sure = await ask(
      "Drop this dead letter?",
      `${letter.consumer ?? "The consumer"} will never get ${named(letter)}. The message itself stays in the database.`, "Drop it",
    );
    if (sure) await act(button, async () => {
      await request(`/api/dead-letters/${letter.id}`, { method: "DELETE" });
      toast("ok", "Dropped.");
    });
  } } }, icon("trash"), h("span", {}, "Drop"));
}

async function act(button, action) {
  button.disabled = true;
  try {
    await action();
    closePanel();
  } catch (error) {
    toast("bad", error.message);
    button.disabled = false;
    if (error.status !== 404) return;
    closePanel();
  }
  await load();
  find("h1", section).focus();
}

async function details(letter) {
  const panel = showPanel(named(letter), letter.reason);
  let full;
  try {
    full = await request(`/api/dead-letters/${letter.id}`, { query: { body: true } });
  } catch (error) {
    panel.replaceChildren(blank("bad", "The letter cannot be shown", error.message, { bad: true }));
    return;
  }
  const facts = {
    Consumer: full.consumer ?? "unknown",
    Queue: h("span", { class: "mono" }, full.queue ?? "unknown"),
    Reason: state("bad", full.reason),
    "Given up by": by(full),
    Parked: full.at ? `${dateTime(full.at)} (${ago(full.at)})` : "unknown",
    "Requeued before": full.requeued ? `${count(full.requeued)} times` : "never",
    "Event": h("span", { class: "mono" }, full.eventId ?? "unknown"),
  };
  panel.replaceChildren(
    h("div", { class: "actions-row" }, requeueButton(full), dropButton(full)),
    definitions(facts),
    part("Headers", definitions(Object.fromEntries(Object.entries(full.headers).map(([name, value]) => [name, h("span", { class: "mono" }, shown(value))])))),
    part(`Body, ${bytes(full.bodyBytes)}`, h("pre", { tabindex: "0", "aria-label": "Body" }, pretty(full.body))),
  );
}

const part = (title, content) => h("section", {}, h("h3", {}, title), content);

const definitions = (facts) => h("dl", { class: "facts" }, Object.entries(facts).map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function pretty(body) {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}
