"""The stages of a comparison of joint trainings, from learning rates to the result."""
