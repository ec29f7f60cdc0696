"""Pictures for pose templates: capture, read and write them."""
