"""The grading page: several people grade query–passage pairs in their browsers, blind to system and judge."""
