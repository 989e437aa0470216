"""Golden cases and numeric laws, for passes inside and outside this project."""
