"""Ways to fine-tune a ViT, one a module, each run in a process of its own by ``train_speed.py``."""
