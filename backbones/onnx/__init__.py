"""Frozen blocks as ONNX graphs, for devices without torch; nothing in here loads it."""
