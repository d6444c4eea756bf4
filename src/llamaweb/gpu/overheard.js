// A promise whose failure is no error of the page where nobody waits for it any more.
(promise) => {
  promise.catch(() => {});
}
