"""Training and evaluation by forward passes over onnxruntime; nothing in here loads torch."""
