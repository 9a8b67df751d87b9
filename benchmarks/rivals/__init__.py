"""What the service is measured against, and what puts load on both."""
