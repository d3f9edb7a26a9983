"""Stage 1: fetch the images and the base model."""
