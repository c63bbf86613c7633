"""Steps from one schema to the next, forward only; run at the service's start."""
