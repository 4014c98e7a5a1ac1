"""Federated LoRA: how updates of two factors become the next ones."""
