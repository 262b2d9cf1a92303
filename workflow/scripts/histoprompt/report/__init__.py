"""The report of a study: one page that holds everything it shows, and what it says in words."""
