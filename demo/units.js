// Quantities for a person.

export function size(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

// How far a phase of loading is; "" where that is not known.
export function amount(phase, done, total) {
  if (phase === "header") return done ? `${(done / 1e6).toFixed(1)} MB` : "";
  if (!total) return "";
  return phase === "weights" ? `${Math.round(done / 1e6)} of ${Math.round(total / 1e6)} MB` : `${done} of ${total}`;
}
