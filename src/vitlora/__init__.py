"""A reproducible pipeline that fine-tunes a Vision Transformer with LoRA."""
