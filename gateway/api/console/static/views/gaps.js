// Gaps: the messages that are known to exist and are not here yet, and having Telegram asked for them now.

import { request } from "../api.js";
import { blank, find, h, skeleton, state } from "../dom.js";
import { directory, keyOf, titleOf } from "../directory.js";
import { count, plural, secondsSince, span } from "../format.js";
import { may } from "../session.js";
import { syncButton } from "../sync.js";
import { table } from "../table.js";

const EVERY_MS = 5000;
const LISTED = 200;

export function open(section) {
  let timer = 0;
  let left = false;
  const place = find("[data-list]", section);
  const again = find("[data-again]", section);
  const load = async () => {
    clearTimeout(timer);
    await render(section, place);
    if (!left && may("admin")) timer = setTimeout(() => document.hidden || place.contains(document.activeElement) ? wait() : load(), EVERY_MS);
  };
  const wait = () => (timer = setTimeout(load, EVERY_MS)); // nothing moves under a finger or a focus
  again.onclick = load;
  again.hidden = !may("admin");
  const actions = find(".actions", section);
  find("[data-all]", actions)?.remove();
  if (may("admin")) {
    const all = syncButton({}, "Compare everything", { done: load });
    all.dataset.all = "";
    actions.append(all);
  }
  place.replaceChildren(skeleton(4));
  load();
  return () => {
    left = true;
    clearTimeout(timer);
  };
}

async function render(section, place) {
  const fresh = find("[data-fresh]", section);
  if (!may("admin")) {
    fresh.textContent = "";
    place.replaceChildren(blank("off", "This token may not see the gaps", "They need a token with the scope admin; the overview has their number."));
    return;
  }
  let found;
  try {
    [found] = await Promise.all([request("/api/gateway/gaps", { query: { limit: LISTED } }), directory()]);
  } catch (error) {
    fresh.textContent = "";
    place.replaceChildren(blank("bad", "The gaps cannot be shown", error.message, { bad: true }));
    return;
  }
  const { total, gaps } = found;
  fresh.textContent = `${total ? plural(total, "open gap") : "None open"}${gaps.length < total ? `, the newest ${count(gaps.length)} shown` : ""}`;
  place.replaceChildren(gaps.length
    ? gapTable(gaps)
    : blank("ok", "No open gaps", "Every message that is known to exist is here, or Telegram no longer has it."));
}

function gapTable(gaps) {
  return table("Open gaps", [
    { label: "Chat", title: true, cell: (gap) => (gap.channelId === null
      ? h("div", {}, "Private chats and basic groups", h("span", { class: "sub" }, "they share their ids"))
      : h("div", {}, titleOf(gap.channelId), h("span", { class: "sub mono" }, gap.channelId))) },
    { label: "Account", cell: (gap) => gap.account },
    { label: "Messages", number: true, cell: (gap) => h(
      "div", {}, `${count(gap.firstId)} – ${count(gap.lastId)}`,
      h("span", { class: "sub" }, gap.reread ? "being read again" : plural(gap.lastId - gap.firstId + 1, "id")),
    ) },
    { label: "Found by", cell: (gap) => gap.source.replaceAll("_", " ") },
    { label: "Open for", number: true, cell: (gap) => span(secondsSince(gap.since)) },
    { label: "State", cell: () => state("warn", "Being fetched", "wait") },
    { label: "Fetch", actions: true, cell: (gap) => (gap.channelId === null ? "" : syncButton(
      { channelId: gap.channelId }, "Sync now", { name: `Sync ${titleOf(keyOf(gap))} now` },
    )) },
  ], gaps);
}
