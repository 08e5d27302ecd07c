"""Integrations: one file a framework, imported only when asked for, and by workers only if the user's code does."""
