// Asks every few seconds how the gateway is, whatever view is open, and knows how old the last answer is.

import { request } from "./api.js";
import { may } from "./session.js";

const EVERY_MS = 4000;
const LETTERS_EVERY_MS = 60000; // to count them, the API takes them all out of their queue for a moment
const REMEMBERED = 90; // samples of each sink's lag: six minutes

export const watch = Object.assign(new EventTarget(), {
  status: null, // the last answer of /api/gateway/status
  health: null, // and of /health
  at: 0, // when they came
  error: null, // why the last question had no answer
  letters: null, // how many dead letters, null while nobody knows
  lags: new Map(), // sink → its lags, oldest first
});

let countedAt = -Infinity;
let timer = 0;
let asking = false;

/** Begins, and asks again at once whenever the page comes back into view. */
export function start() {
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
  return ask();
}

/** Asks now. */
export async function ask() {
  clearTimeout(timer);
  if (asking) return;
  asking = true;
  try {
    const [status, health] = await Promise.all([request("/api/gateway/status"), apiHealth()]);
    Object.assign(watch, { status, health, at: Date.now(), error: null });
    for (const sink of status.sinks) {
      const lags = watch.lags.get(sink.name) ?? [];
      watch.lags.set(sink.name, [...lags, sink.lagEvents].slice(-REMEMBERED));
    }
    if (may("admin") && performance.now() - countedAt > LETTERS_EVERY_MS) await countLetters();
  } catch (error) {
    watch.error = error;
  } finally {
    asking = false;
  }
  watch.dispatchEvent(new Event("change"));
  if (!document.hidden) timer = setTimeout(ask, EVERY_MS);
}

async function countLetters() {
  countedAt = performance.now();
  try {
    watch.letters = (await request("/api/dead-letters", { query: { limit: 1 } })).total;
  } catch (error) {
    if (error.status === 0) throw error;
    watch.letters = null; // the broker is away; /health says so
  }
}

async function apiHealth() {
  try {
    return await request("/health");
  } catch (error) {
    if (error.problem?.problems) return error.problem; // 503: down, with what
    throw error;
  }
}
