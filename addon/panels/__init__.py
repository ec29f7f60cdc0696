"""Panels in the sidebar and the preferences."""
