"""Mimosa: reinforcement learning with verifiable rewards for Mamba-3 language models."""

__version__ = "0.1.0"
