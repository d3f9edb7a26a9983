"""One HTML file that classifies pictures by itself: the exported model and a runtime for browsers, packed into it."""
