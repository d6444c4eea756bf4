"""Commands as they run in the page's Python, and what they measure there. Never imported outside of a browser."""
