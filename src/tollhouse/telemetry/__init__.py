"""What operators see of the running service: metrics and logs. Neither ever holds a prompt, an answer or a key."""
