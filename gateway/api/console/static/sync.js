// "Compare with Telegram": asks for it, waits until it is done, and says what it found.

import { request } from "./api.js";
import { h, icon, toast } from "./dom.js";
import { plural } from "./format.js";

const POLL_MS = 1000;
const PATIENCE_MS = 60000;

/** A button that has `order` ({} for everything) carried out; `done` is called after it. */
export function syncButton(order, label, { done, name = label } = {}) {
  const words = h("span", {}, label);
  const button = h("button", { type: "button", "aria-label": name === label ? null : name }, icon("sync"), words);
  button.addEventListener("click", async () => {
    button.disabled = true;
    words.textContent = "Comparing …";
    try {
      toast(...await outcome(await request("/api/sync", { method: "POST", body: order })));
    } catch (error) {
      toast("bad", error.message);
    }
    words.textContent = label;
    button.disabled = false;
    done?.();
  });
  return button;
}

async function outcome(sync) {
  const patience = performance.now() + PATIENCE_MS;
  while (sync.state === "pending" || sync.state === "running") {
    if (performance.now() > patience) {
      return sync.state === "pending"
        ? ["warn", "No gateway has taken the comparison yet. It waits until one does."]
        : ["ok", "The comparison goes on; what it finds appears among the gaps."];
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    sync = await request(`/api/sync/${sync.id}`);
  }
  return sync.state === "failed" ? ["bad", `The comparison failed: ${sync.error}`] : ["ok", found(sync.counts)];
}

function found({ messages, gapsOpened }) {
  if (messages) return `Compared; ${plural(messages, "message")} newer than what is here ${messages === 1 ? "is" : "are"} fetched.`;
  if (gapsOpened) return `Compared; ${plural(gapsOpened, "gap")} found, which ${gapsOpened === 1 ? "is" : "are"} being fetched.`;
  return "Compared; nothing is missing.";
}
