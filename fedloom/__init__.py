"""fedloom: federated fine-tuning of foundation models, simulated and deployed by one code."""

__version__ = "0.1.0"
