"""Programs of the intermediate form as machine code, by LLVM."""
