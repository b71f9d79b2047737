"""Speed claims: each command measures a reference in the same run."""
