"""Jobs on other machines, by Ray. Imported only by those who ask for it: Ray is an optional package."""
