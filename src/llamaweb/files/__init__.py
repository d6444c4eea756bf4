"""Where bytes come from in a page and what is kept there: never the GPU. Import its modules inside Pyodide alone."""
