// Quantities for a person.

export function size(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${Math.round(bytes / 1e6)} MB`;
}

// How far a phase of loading is; "" where that is not known.
export function amount(phase, done, total) {
  if (phase === "header") return done ? `${(done / 1e6).toFixed(1)} MB` : "";
  if (!total) return "";
  return phase === "weights" ? `${Math.round(done / 1e6)} of ${Math.round(total / 1e6)} MB` : `${done} of ${total}`;
}
