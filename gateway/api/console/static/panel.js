// The panel at the side, for one message, chat or dead letter.

import { find, h, icon, skeleton } from "./dom.js";

const panel = find("#message-panel");
panel.addEventListener("click", (event) => {
  if (event.target === panel) panel.close(); // beside it
});

/** Opens it with a skeleton in it; returns the place that what is shown belongs into. */
export function showPanel(title, subtitle = "", { onClose } = {}) {
  const body = h("div", { class: "panel-body" }, skeleton());
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Close", on: { click: () => panel.close() } }, icon("close"));
  panel.replaceChildren(
    h("div", { class: "panel-head" }, h("div", {}, h("h2", { id: "message-title" }, title), h("p", { class: "muted" }, subtitle)), close),
    body,
  );
  if (panel.open) panel.close();
  panel.addEventListener("close", () => onClose?.(), { once: true });
  panel.showModal();
  return body;
}

export const closePanel = () => panel.close();
