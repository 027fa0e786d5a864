"""What an operator sees and steers: logs, metrics, workers, systemd."""
