"""What a program means, as functions: the only folder that touches poutine, functorch, FX and Inductor."""
