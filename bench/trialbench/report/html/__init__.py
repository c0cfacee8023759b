"""`report.html` and the page of `compare`: self-contained files that fetch nothing."""
