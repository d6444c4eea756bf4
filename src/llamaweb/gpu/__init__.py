"""The GPU alone: device, executor, upload, tuning, timer, profiler. Import its modules inside Pyodide alone."""
