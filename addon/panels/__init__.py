"""What the artist sees in the sidebar and in the preferences."""
