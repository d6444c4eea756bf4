// Watches promises of a device. That one fails is no error of the page where nobody waits for it any more. And Firefox
// tells that work is done when other work is submitted, or else every 100 ms: so nothing at all is submitted, over and
// over, while it has something to tell.
(queue) => {
  const late = /Firefox\//.test(navigator.userAgent);
  let under = 0; // way
  let timer;
  return (promise) => {
    if (!late) {
      promise.catch(() => {});
      return;
    }
    if (!under++) timer = setInterval(() => queue.submit([]), 1);
    const end = () => {
      if (!--under) clearInterval(timer);
    };
    promise.then(end, end);
  };
}
