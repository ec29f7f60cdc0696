"""What the backend and the add-on share: their contract, and how its files are read and written. No torch."""
