"""What runs outside the browser: the command line, the local server, the headless browser. Never imported in a page."""
