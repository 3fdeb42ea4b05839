"""Training of the compact model: packed data, augmentation, the loop."""
