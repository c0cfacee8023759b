"""Attribution of a failure to the step that caused it."""
