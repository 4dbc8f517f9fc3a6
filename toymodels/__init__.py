"""The theory: one symbolic model, its closed forms, its dynamics and its simulation."""
