"""What a job needs and what it will cost, before a GPU is rented."""
