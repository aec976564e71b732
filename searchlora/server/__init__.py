"""What people and programs reach over HTTP: the grading page."""
