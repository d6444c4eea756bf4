// A promise's end, good or bad, as a promise of its own; its failure is no error of the page where nobody waits for it
// any more.
(promise) =>
  promise.then(
    () => {},
    () => {},
  )
