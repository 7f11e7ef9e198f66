"""Which method for a model: facts, rules that make a plan of them, and the run that follows the plan."""
