"""One use-case per module: plans first, then applies. No printing, no command-line parsing."""
