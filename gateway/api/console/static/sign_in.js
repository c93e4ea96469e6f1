// The sign-in form: hands the token to the server once, which keeps it where no script reads it.

import { request } from "./api.js";
import { find } from "./dom.js";

const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);
const field = find("#token");
const problem = find("#sign-in-problem");
const button = find("#sign-in-button");

/** Where to go then: a path of this site that the console was opened at. */
function destination() {
  const next = new URLSearchParams(location.search).get("next") ?? "/";
  return next === "/" || next.startsWith("/console/") ? next : "/";
}

find("#sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.textContent = "";
  const token = field.value.trim();
  if (!token) {
    refuse("Paste a token first.");
    return;
  }
  button.disabled = true;
  try {
    await request("/console/session", { method: "POST", body: { token } });
    location.replace(destination());
  } catch (error) {
    button.disabled = false;
    refuse(error.message);
  }
});

function refuse(text) {
  problem.textContent = text;
  field.setAttribute("aria-invalid", "true");
  field.focus();
  field.select();
}

find("#not-encrypted").hidden = location.protocol === "https:" || LOOPBACK.has(location.hostname);
field.disabled = button.disabled = false;
field.focus();
// Already signed in, as after a link from another site, with which no cookie is sent.
request("/console/session").then((session) => session && location.replace(destination()), () => {});
