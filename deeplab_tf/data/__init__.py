"""Labels, dataset readers, preprocessing, augmentation and the training pipeline."""
