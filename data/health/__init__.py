"""The checks of the doctor (data/doctor.py)."""
