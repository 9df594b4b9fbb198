"""Objectives: losses and metrics as pure functions on tensors."""
