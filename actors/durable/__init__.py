"""Plain actors that keep their declared state, and messages to them that outlive the process."""
