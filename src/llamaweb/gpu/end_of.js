// A promise's end, good or bad, as a promise of its own, which is in an object: Pyodide does not survive a function that
// takes a promise and gives one.
(promise) => ({
  ended: promise.then(
    () => {},
    () => {},
  ),
})
