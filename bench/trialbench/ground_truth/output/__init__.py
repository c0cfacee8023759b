"""A verdict for people and machines: terminal, JUnit, ticket, page."""
