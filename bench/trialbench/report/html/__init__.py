"""`report.html` and the page of `compare`: one file each, that needs nothing beside it and asks nobody."""
