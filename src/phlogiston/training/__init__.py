"""Methods that learn parameters of a program, of a guide or of both."""
