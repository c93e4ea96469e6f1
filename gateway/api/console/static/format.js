// Numbers, sizes and moments, as people read them.

const number = new Intl.NumberFormat("en");
const day = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", year: "numeric" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const count = (value) => (value === null || value === undefined ? "–" : number.format(value));

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** A length of time in its two largest units: 3 d 4 h, 12 min, 8 s. */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole < 600 && whole % 60 ? ` ${whole % 60} s` : ""}`;
  if (whole < 86400) {
    const minutes = Math.floor((whole % 3600) / 60);
    return `${Math.floor(whole / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
  }
  const hours = Math.floor((whole % 86400) / 3600);
  return `${Math.floor(whole / 86400)} d${hours && whole < 864000 ? ` ${hours} h` : ""}`;
}

export const secondsSince = (moment) => (Date.now() - new Date(moment)) / 1000;

/** How long ago, in one unit. */
export function ago(moment) {
  const seconds = Math.max(0, secondsSince(moment));
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${Math.round(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86400)} d ago`;
}

export const time = (moment) => clock.format(new Date(moment));

export const dateTime = (moment) => `${day.format(new Date(moment))}, ${time(moment)}`;

/** The time of today, the date and time of any other day. */
export function shortTime(moment) {
  const then = new Date(moment);
  return then.toDateString() === new Date().toDateString() ? time(moment) : `${day.format(then).slice(0, 6)} ${time(moment).slice(0, 5)}`;
}
