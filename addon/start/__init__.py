"""What the next job starts from: an object of the scene, a part of it, or an earlier result."""
