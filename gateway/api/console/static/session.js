// Who is signed in, and what the token may do; the views show no button that would be refused.

import { request } from "./api.js";

let session = { name: "", scopes: [], chats: null };

/** Asks who is signed in; leaves for the sign-in page when nobody is. Resolves to whether somebody is. */
export async function open() {
  let found;
  try {
    found = await request("/console/session");
  } catch (error) {
    if (error.status !== 401) throw error;
    found = null;
  }
  if (found) session = found;
  else leave();
  return Boolean(found);
}

export const may = (scope) => session.scopes.includes(scope);

/** The token's name, and in words what it may do. */
export function described() {
  const highest = ["admin", "process", "read"].find(may);
  const what = { admin: "may change things", process: "may read and process", read: "read only" }[highest];
  const chats = session.chats === null ? "" : `, ${session.chats.length} chats`;
  return { name: session.name, what: what + chats };
}

export async function signOut() {
  await request("/console/session", { method: "DELETE" });
  location.replace("/console/sign-in");
}

export function leave() {
  const here = location.pathname + location.search;
  location.replace(`/console/sign-in${here === "/" ? "" : `?next=${encodeURIComponent(here)}`}`);
}

window.addEventListener("signed-out", leave);
