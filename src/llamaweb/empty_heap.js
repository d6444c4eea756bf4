// Bytes of the WebAssembly memory of a Pyodide that has run nothing, made beside this one.
async (indexURL) => {
  const { loadPyodide } = await import(`${indexURL}pyodide.mjs`);
  return (await loadPyodide({ indexURL }))._module.HEAP8.length;
}
