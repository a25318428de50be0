"""Training: schedules, optimisation, state and the loop."""
