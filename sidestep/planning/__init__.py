"""`sidestep plan`: the memory, time and cost of a job, before a GPU is rented."""
