"""The three stages of a job, and what all of them are guided by."""
