"""The command `recdreamer`. Each command imports only the modules that it needs."""
