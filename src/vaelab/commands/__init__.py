"""One file a command: it parses what was typed, calls one room, and prints."""
