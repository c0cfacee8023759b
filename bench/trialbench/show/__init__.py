"""Text, charts, HTML, JUnit and terminal output for all rooms; nothing here knows about runs."""
