"""Labels, dataset readers, the preprocessing contract and the training pipeline."""
