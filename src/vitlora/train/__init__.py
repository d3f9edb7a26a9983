"""Stage 3: fit an adapter with the Hugging Face Trainer."""
