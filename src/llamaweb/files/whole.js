// What a stream has of a model, as a Blob: as much as the model's own header tells, since a stream may have no end.
//
// `length` gives how long the model is for what has come of it (an ArrayBuffer), or nothing while more is needed. Pieces
// of `piece` bytes are handed over to the browser, which may put them on the disk.
async (reader, length, piece) => {
  const blobs = [];
  let chunks = [];
  let held = 0; // bytes of the chunks
  let size = 0;
  let end = null;
  let asked = 0; // after so many bytes the end is asked for
  for (let next; (end === null || size < end) && !(next = await reader.read()).done; ) {
    if (next.value?.BYTES_PER_ELEMENT !== 1) throw new TypeError("it has no bytes");
    chunks.push(next.value);
    size += next.value.length;
    held += next.value.length;
    if (end === null && size >= asked) {
      end = (await length(await new Blob([...blobs, ...chunks]).arrayBuffer())) ?? null;
      asked = 4 * size;
    }
    if (held < piece) continue;
    blobs.push(new Blob(chunks));
    [chunks, held] = [[], 0];
  }
  return new Blob([...blobs, ...chunks]).slice(0, end ?? size);
}
