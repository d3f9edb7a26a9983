"""Stage 4: score the adapter on the test split."""
