// Quantities for a person.

export function size(bytes) {
  return `${(bytes / 1e6).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} MB`;
}

// How far a phase of loading is; "" where that is not known.
export function amount({ phase, done = 0, total = 0, rate = 0, seconds_left: left }) {
  if (phase === "header") return done ? `${(done / 1e6).toFixed(1)} MB` : "";
  if (!total) return "";
  if (phase !== "weights") return `${done} of ${total}`;
  const parts = [`${Math.round(done / 1e6)} of ${Math.round(total / 1e6)} MB`];
  // The pace of the first moments tells nothing, nor does that of what is over at once.
  if (rate && left > 2) parts.push(`${size(rate)}/s`, `${duration(left)} left`);
  return parts.join(" · ");
}

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
