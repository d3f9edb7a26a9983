"""Classify pictures with an exported model: numpy, pillow and onnxruntime, nothing of the pipeline's own tools."""
