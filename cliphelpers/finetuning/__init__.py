"""Fine-tuning of any encoder: one training loop, two losses, and the way between two models."""
