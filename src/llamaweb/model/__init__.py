"""Model files: where bytes come from, and what a GGUF header says."""
