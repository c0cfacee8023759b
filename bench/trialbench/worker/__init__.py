"""The worker: a long-lived process that speaks ND-JSON and serves one engine, with retries, routing and a breaker."""
