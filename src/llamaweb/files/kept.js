// A reader of a kept file, whose failures are told apart from those of what a person gave. `size` bytes are to come.
(reader, size) => {
  const failed = (error) => Object.assign(new Error(String(error)), { name: "BrokenCopyError" });
  let left = size;
  return {
    broken: false,
    async read() {
      try {
        const answer = await reader.read();
        left -= answer.value?.length ?? 0;
        if (!answer.done || !left) return answer;
        throw new Error(`it ends ${left} bytes early`);
      } catch (error) {
        this.broken = true;
        throw failed(error);
      }
    },
    cancel: () => reader.cancel(),
  };
}
