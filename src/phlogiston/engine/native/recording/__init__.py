"""What a program does to its inputs, recorded and turned into the intermediate form."""
