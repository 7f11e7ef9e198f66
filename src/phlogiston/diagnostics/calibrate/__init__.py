"""Simulation-based calibration: does a method recover what data were simulated from?"""
