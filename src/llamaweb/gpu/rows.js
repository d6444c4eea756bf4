// Rows of a table that is kept here, in chunks of `each` rows of `bytes` bytes.
(chunks, each, bytes) => (ids) => {
  const found = new Uint8Array(ids.length * bytes);
  ids.forEach((id, i) => {
    const at = (id % each) * bytes;
    found.set(chunks[Math.floor(id / each)].subarray(at, at + bytes), i * bytes);
  });
  return found;
}
