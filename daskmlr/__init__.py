"""Mixed linear regression over millions of small tasks."""
