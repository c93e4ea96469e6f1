// A table of rows: on a phone each row becomes a card, so every cell also carries its column's name.

import { h } from "./dom.js";

/** `columns`: [{label, cell(row) → node or text, number, title, actions}]; `rows` in order. `key(row)` names a row. */
export function table(caption, columns, rows, { key } = {}) {
  const heads = columns.map(({ label, number, actions }) => h(
    "th", { scope: "col", role: "columnheader", class: number ? "number" : null },
    actions ? h("span", { class: "unseen" }, label) : label,
  ));
  // The roles are said, because a phone's layout takes the table's own away.
  return h(
    "table", { class: "table", role: "table", "aria-label": caption },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    h("tbody", { role: "rowgroup" }, rows.map((row) => h(
      "tr", { role: "row", "data-key": key ? key(row) : null }, columns.map((column) => cell(column, row)),
    ))),
  );
}

function cell({ label, cell: content, number, title, actions }, row) {
  const classes = [number && "number", title && "title-cell", actions && "actions-cell"].filter(Boolean).join(" ");
  return h("td", { role: "cell", "data-label": label, class: classes || null }, h("div", {}, content(row) ?? "–"));
}
