"""Score completions: rules, lexicons, a user's own function, and the shaping of rewards."""
