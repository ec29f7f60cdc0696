"""What a job starts from: the prompt alone, a mesh, or an earlier job."""
