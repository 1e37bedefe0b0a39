"""The web server: a page and two APIs over one engine that writes many stories at once."""
