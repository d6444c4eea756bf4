"""The GPU and the page: the only folder that touches JavaScript. Import its modules inside Pyodide alone."""
