"""What the doctor (data/doctor.py) looks at and what it finds."""
