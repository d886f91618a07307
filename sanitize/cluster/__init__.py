"""The machines of a Dask scheduler do the jobs."""
