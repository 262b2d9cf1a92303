"""Fine-tuning of a U-Net: what a step sees, how it learns from it, and how the run survives being stopped."""
