"""What methods are made of: transition kernels and proposals, each a small thing with explicit state."""
