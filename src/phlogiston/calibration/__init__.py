"""Simulation-based calibration: does a method recover what data were simulated from?"""

from phlogiston.calibration.result import Calibration
from phlogiston.calibration.run import calibrate

__all__ = ["Calibration", "calibrate"]
