"""Stage 5: merge, write ONNX, and prove both equal to the trained model."""
