"""Judgement: whether to believe a result, and how results compare."""
