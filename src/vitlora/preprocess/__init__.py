"""Stage 2: check, split and report on the images; store validation and test as uint8 squares."""
