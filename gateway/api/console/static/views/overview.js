// Overview: how the gateway is, its accounts, its sinks and its journal, renewed every few seconds.

import { find, h, icon, s, state } from "../dom.js";
import { ago, bytes, count, plural, secondsSince, span } from "../format.js";
import { table } from "../table.js";
import { watch } from "../watch.js";

const VERDICTS = {
  healthy: ["ok", "Everything is well"],
  degraded: ["warn", "Working, but something needs you"],
  down: ["bad", "No account is connected"],
};
const ACCOUNTS = {
  connected: ["ok", "Connected", "ok"],
  connecting: ["warn", "Connecting", "wait"],
  waiting: ["off", "Waiting", "wait"],
  dead: ["bad", "Dead", "bad"],
};
const SINKS = { timescaledb: "TimescaleDB", redis: "Redis", rabbitmq: "RabbitMQ", media: "Media" };
const FULL_WARN = 0.7;
const FULL_BAD = 0.9;

export function open(section) {
  const show = () => render(section);
  const age = () => renderAge(section);
  watch.addEventListener("change", show);
  const timer = setInterval(age, 1000);
  show();
  return () => {
    watch.removeEventListener("change", show);
    clearInterval(timer);
  };
}

function renderAge(section) {
  const { status, at, error } = watch;
  const place = find("[data-fresh]", section);
  if (!at) place.textContent = error ? "No answer yet" : "Asking …";
  else place.textContent = error ? `As it was ${ago(at)}` : `As of ${ago(at)}`;
  find("[data-content]", section).classList.toggle("stale", Boolean(error) && status !== null);
}

function render(section) {
  renderAge(section);
  const { status } = watch;
  if (!status) return;
  renderVerdict(find("[data-verdict]", section), status);
  find("[data-figures]", section).replaceChildren(...figures(status));
  find("[data-accounts]", section).replaceChildren(status.reachable ? accounts(status.accounts) : unknown());
  find("[data-sinks]", section).replaceChildren(status.reachable ? sinks(status.sinks) : unknown());
}

const unknown = () => h("p", { class: "blank" }, "Only the daemon knows, and it does not answer.");

function renderVerdict(card, status) {
  const [level, title] = status.reachable ? VERDICTS[status.health] : ["bad", "The daemon does not answer"];
  const servers = Object.entries(watch.health.problems).filter(([name]) => name !== "daemon");
  const problems = [...status.problems, ...servers.map(([name, what]) => `the API's ${name}: ${what}`)];
  const worst = level === "ok" && servers.length ? "warn" : level;
  const signature = JSON.stringify([worst, problems]);
  if (card.dataset.shown === signature) return;
  card.dataset.shown = signature;
  card.className = `card verdict ${worst}`;
  card.replaceChildren(icon(worst), h(
    "div", {},
    h("strong", {}, worst === level ? title : VERDICTS.degraded[1]),
    problems.length ? h("ul", {}, problems.map((problem) => h("li", {}, sentence(problem)))) : h("p", {}, summary(status)),
  ));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function summary(status) {
  const slowest = Math.max(0, ...status.sinks.map((sink) => sink.lagEvents));
  return `Version ${status.version}. ${slowest ? `At most ${plural(slowest, "event")} on the way to a sink.` : "Every sink has every event."}`;
}

function figures(status) {
  const up = status.accounts.filter((account) => account.state === "connected").length;
  const gaps = status.accounts.reduce((sum, account) => sum + account.openGaps, 0);
  const lag = Math.max(0, ...status.sinks.map((sink) => sink.lagEvents));
  const known = status.reachable;
  return [
    figure("Accounts connected", known ? `${up} of ${status.accounts.length}` : "–"),
    figure("Largest lag", known ? count(lag) : "–", known ? (lag === 1 ? "event" : "events") : ""),
    journalFigure(status.journal),
    figure("Open gaps", known ? link("/console/gaps", count(gaps)) : "–", gaps ? "being fetched" : known ? "nothing is missing" : ""),
    figure("Dead letters", watch.letters === null ? "–" : link("/console/dead-letters", count(watch.letters)), letterNote()),
  ];
}

function letterNote() {
  if (watch.letters === null) return "not known to this token";
  return watch.letters ? "consumers gave up on them" : "none";
}

const link = (href, text) => h("a", { href, "data-link": true }, text);

const figure = (term, value, note = "") => h("div", { class: "figure" }, h("dt", {}, term), h("dd", {}, value), note ? h("dd", { class: "note" }, note) : "");

function journalFigure(journal) {
  if (!journal) return figure("Journal", "–");
  const share = journal.limitBytes ? journal.bytes / journal.limitBytes : 0;
  const percent = share && share < 0.01 ? "< 1 %" : `${Math.round(share * 100)} %`;
  const fill = h("div", { class: `meter-fill ${journal.full || share >= FULL_BAD ? "bad" : share >= FULL_WARN ? "warn" : ""}` });
  fill.style.width = `${Math.min(100, share * 100)}%`;
  const meter = h("div", { class: "meter", "aria-hidden": "true" }, fill);
  return h(
    "div", { class: "figure" },
    h("dt", {}, "Journal"), h("dd", {}, journal.full ? state("bad", "Full") : percent),
    h("dd", { class: "note" }, meter, `${bytes(journal.bytes)} of ${bytes(journal.limitBytes)}, ${plural(journal.rows, "event")}`),
  );
}

function accounts(rows) {
  return table("Accounts", [
    { label: "Account", title: true, cell: (account) => account.account },
    { label: "State", cell: (account) => {
      const [level, word, sign] = ACCOUNTS[account.state];
      return h("div", {}, state(level, word, sign), account.reason ? h("span", { class: "sub" }, account.reason) : "");
    } },
    { label: "For", number: true, cell: (account) => span(secondsSince(account.since)) },
    { label: "Channels", number: true, cell: (account) => count(account.channels) },
    { label: "Reconnects", number: true, cell: (account) => count(account.reconnects) },
    { label: "Open gaps", number: true, cell: (account) => count(account.openGaps) },
    { label: "Telegram user", number: true, cell: (account) => h("span", { class: "mono" }, account.userId === null ? "–" : String(account.userId)) },
  ], rows);
}

function sinks(rows) {
  return table("Sinks", [
    { label: "Sink", title: true, cell: (sink) => SINKS[sink.name] ?? sink.name },
    { label: "State", cell: (sink) => h(
      "div", {}, sink.up ? state("ok", "Up") : state("bad", "Down"),
      sink.reason && !sink.up ? h("span", { class: "sub" }, sink.reason) : "",
    ) },
    { label: "Lag, events", number: true, cell: (sink) => count(sink.lagEvents) },
    { label: "Lag lately", cell: (sink) => spark(watch.lags.get(sink.name) ?? []) },
    { label: "Oldest waiting", number: true, cell: (sink) => (sink.oldestUndelivered ? ago(sink.oldestUndelivered) : "nothing waits") },
    { label: "Refused", number: true, cell: (sink) => (sink.quarantined ? state("bad", count(sink.quarantined)) : "0") },
    { label: "Delivered up to", number: true, cell: (sink) => `№ ${count(sink.cursor)}` },
  ], rows);
}

/** The lag since the page was opened, as a line; the number beside it says the same. */
function spark(lags) {
  const most = Math.max(1, ...lags);
  const step = 120 / Math.max(1, lags.length - 1);
  const points = lags.map((lag, index) => `${(index * step).toFixed(1)} ${(21 - (lag / most) * 19).toFixed(1)}`);
  return s(
    "svg", { class: "spark", viewBox: "0 0 120 22", "aria-hidden": "true" },
    s("path", { class: "floor", d: "M0 21.5H120" }),
    ...(points.length > 1 ? [s("path", { d: `M${points.join("L")}` })] : []),
  );
}
