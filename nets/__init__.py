"""Real networks: data, architectures and the training run on disk."""
