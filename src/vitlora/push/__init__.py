"""The exported model to the Hugging Face Hub."""
