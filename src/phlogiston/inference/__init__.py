"""Methods that yield a posterior, and the choice among them."""
